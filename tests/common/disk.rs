//! A disk that fails, stops, holds still or loses its power when a test says so.
//!
//! [`Faulty`] is a [`Disk`] over a real directory. It stands for the *machine*: a
//! store that is dropped was killed, and one that is opened on the same disk finds
//! what the page cache had. What it was asked is counted and written down.
//!
//! | to test | use |
//! |---|---|
//! | a call that fails, once or for good | [`Faulty::fail`], [`Faulty::heal`] |
//! | a process cut off at its n-th call | [`How::Stop`] |
//! | what waits for a call, and what shares it | [`Faulty::hold`] |
//! | threads that overtake one another | [`Faulty::wait_at_random`] |
//! | what happens beside a call, on one thread | [`Faulty::before_each`] |
//! | what is asked, and in which order | [`Faulty::done`] |
//! | a power cut | [`Faulty::power_cut`] |
//!
//! A sync is never passed on, so that thousands of stores can be opened in a second;
//! but the disk keeps what was synced apart from what was only written. A sync that
//! fails drops what it should have saved, as kernels do, and what is written there again
//! is lost as well, as on ext4, until the file was cut before it. What it dropped may have
//! reached the disk all the same.

use memcached_lite::driver::random::Random;
use memcached_lite::store::disk::{Directory, Disk};
use memcached_lite::store::record::{Format, HEADER_LEN, Header, Kind, Record};
use memcached_lite::store::{Error, Options, Session, Settings, Store};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

/// The calls of [`Disk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    List,
    Open,
    Read,
    Write,
    Sync,
    Reserve,
    Truncate,
    Rename,
    Remove,
    SyncDir,
}

impl Call {
    /// Every call there is.
    pub const ALL: &'static [Call] = &[
        Call::List,
        Call::Open,
        Call::Read,
        Call::Write,
        Call::Sync,
        Call::Reserve,
        Call::Truncate,
        Call::Rename,
        Call::Remove,
        Call::SyncDir,
    ];

    /// This one and no other.
    fn alone(self) -> &'static [Call] {
        let at = Call::ALL.iter().position(|call| *call == self).unwrap();
        &Call::ALL[at..=at]
    }
}

/// What happens at the call that was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It fails, and the next one works again.
    Once,
    /// It fails, and all calls of its kind do until [`Faulty::heal`].
    Always,
    /// So do all that were chosen, and say that the disk is full.
    Full,
    /// It fails, and whatever is called after it, as if the process ended there.
    Stop,
    /// It fails when half of what it was given is written, for once.
    Short,
    /// A rename is done, and said to have failed, for once.
    Late,
}

/// A call that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub call: Call,
    /// The file, by the name it has when it is looked up; empty for the directory.
    pub file: String,
    /// Where it was read or written, in bytes; the new length for a truncation.
    pub offset: u64,
    pub len: u64,
}

/// See the top of this file. Clones are the same disk.
#[derive(Clone)]
pub struct Faulty {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    directory: Directory,
    state: Mutex<State>,
    /// Signalled when a call arrives at a hold, and when a hold ends.
    changed: Condvar,
}

type Inode = u64;

#[derive(Default)]
struct State {
    done: Vec<(Call, Inode, u64, u64)>,
    faults: Vec<Fault>,
    stopped: bool,
    /// Calls that have failed.
    failures: usize,
    /// Run before each call.
    before: Option<fn(Call)>,
    /// Chooses how long a call waits for others.
    waits: Option<Random>,
    /// Such calls are held, once so many have passed.
    held: Option<(Call, usize)>,
    /// Calls that have come to the hold.
    arrived: usize,
    /// All files ever seen stay open, so that no inode is ever used again.
    open: HashMap<Inode, File>,
    names: BTreeMap<String, Inode>,
    /// What a power cut leaves for sure.
    safe_names: BTreeMap<String, Inode>,
    safe_bytes: HashMap<Inode, Vec<u8>>,
    /// What it may leave as well: the changes of names since the last `sync_dir`, and
    /// what was written to a file since its last sync.
    unsafe_names: Vec<Naming>,
    unsafe_changes: Vec<(Inode, Change)>,
    /// What a sync that failed has dropped: it may be on the disk, until something
    /// written later is safe.
    dropped: Vec<(Inode, Change)>,
    /// Where a sync that failed has left blocks that no later one saves.
    bad: Vec<(Inode, Range<usize>)>,
}

/// A change of names: what was taken away, and what was given.
#[derive(Clone)]
struct Naming(Option<String>, Option<(String, Inode)>);

impl Naming {
    fn apply(&self, names: &mut BTreeMap<String, Inode>) {
        if let Some(name) = &self.0 {
            names.remove(name);
        }
        if let Some((name, inode)) = &self.1 {
            names.insert(name.clone(), *inode);
        }
    }
}

struct Fault {
    calls: &'static [Call],
    /// Calls of that kind that still work.
    left: usize,
    how: How,
    thread: Option<ThreadId>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(offset, new) => {
                let offset = *offset as usize;
                let len = bytes.len().max(offset + new.len());
                bytes.resize(len, 0);
                bytes[offset..offset + new.len()].copy_from_slice(new);
            }
            Change::Truncate(len) => bytes.resize(*len as usize, 0),
        }
    }

    /// Applies it, except for what is written to a bad range.
    fn apply_around(&self, bytes: &mut Vec<u8>, bad: &[Range<usize>]) {
        let Change::Write(offset, new) = self else { return self.apply(bytes) };
        let (offset, mut new) = (*offset as usize, new.clone());
        for range in bad {
            for at in range.start.max(offset)..range.end.min(offset + new.len()) {
                new[at - offset] = bytes.get(at).copied().unwrap_or(0);
            }
        }
        Change::Write(offset as u64, new).apply(bytes);
    }

    /// Applies what a power cut leaves of it. A disk writes whole pages, in any order:
    /// each page of a write is there, or not, or zeros where the file had nothing
    /// before, if its new length was saved and its bytes were not.
    fn apply_in_part(&self, bytes: &mut Vec<u8>, random: &mut Random) {
        let Change::Write(offset, new) = self else {
            return if random.below(2) == 0 {
                self.apply(bytes)
            };
        };
        let mut at = *offset as usize;
        for page in pages(at, new) {
            let end = at + page.len();
            match random.below(3) {
                0 => {}
                1 => bytes.resize(bytes.len().max(end), 0),
                _ => Change::Write(at as u64, page.to_vec()).apply(bytes),
            }
            at = end;
        }
    }
}

/// The bytes of a write at `offset`, cut where a page of the file ends.
fn pages(offset: usize, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let head = (PAGE - offset % PAGE).min(bytes.len());
    let (head, rest) = bytes.split_at(head);
    [head].into_iter().chain(rest.chunks(PAGE))
}

/// What a disk writes whole, in bytes.
const PAGE: usize = 4096;

/// What becomes of a call that does not fail.
enum Verdict {
    Works,
    Half,
    Late,
}

impl Verdict {
    fn of(&self, len: usize) -> usize {
        match self {
            Verdict::Works | Verdict::Late => len,
            Verdict::Half => len / 2,
        }
    }
}

impl Faulty {
    /// A disk over an existing directory, of which all is safe.
    pub fn new(path: &Path) -> Faulty {
        let mut state = State::default();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let file = File::open(entry.path()).unwrap();
            let inode = file.metadata().unwrap().ino();
            state.names.insert(entry.file_name().into_string().unwrap(), inode);
            state.safe_bytes.insert(inode, fs::read(entry.path()).unwrap());
            state.open.insert(inode, file);
        }
        state.safe_names = state.names.clone();
        let shared = Shared {
            path: path.to_owned(),
            directory: Directory::at(path).unwrap(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        Faulty { shared: Arc::new(shared) }
    }

    /// The same disk, as the store takes it.
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// A store on this disk, and what was torn off.
    pub fn open(
        &self,
        options: &Options,
        now: u64,
    ) -> Result<(Store, Option<String>), Error> {
        Store::on_disk(self.shared(), options, now)
    }

    /// From now on, lets `after` of these calls pass; then comes the fault.
    pub fn fail(&self, calls: &'static [Call], after: usize, how: How) {
        self.state().faults.clear();
        self.fail_too(calls, after, how);
    }

    /// A fault beside those that were chosen before.
    pub fn fail_too(&self, calls: &'static [Call], after: usize, how: How) {
        self.state().faults.push(Fault { calls, left: after, how, thread: None });
    }

    /// As [`Faulty::fail`], but only calls made by this thread count.
    pub fn fail_here(&self, calls: &'static [Call], after: usize, how: How) {
        let thread = Some(thread::current().id());
        self.state().faults = vec![Fault { calls, left: after, how, thread }];
    }

    /// All works again.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.stopped = false;
    }

    /// How many calls have failed.
    pub fn failures(&self) -> usize {
        self.state().failures
    }

    /// From now on, calls let others go first: each waits until a number of them, which
    /// the seed determines, has come; but not for good.
    pub fn wait_at_random(&self, seed: u64) {
        self.state().waits = Some(Random::new(seed));
    }

    /// From now on, runs this before each call, on the thread that makes it.
    pub fn before_each(&self, before: fn(Call)) {
        self.state().before = Some(before);
    }

    /// Whether the process has been stopped.
    pub fn has_stopped(&self) -> bool {
        self.state().stopped
    }

    /// Keeps all such calls waiting until the value is dropped.
    pub fn hold(&self, call: Call) -> Hold<'_> {
        self.hold_after(call, 0)
    }

    /// As [`Faulty::hold`], once so many have passed.
    pub fn hold_after(&self, call: Call, passing: usize) -> Hold<'_> {
        let mut state = self.state();
        state.held = Some((call, passing));
        state.arrived = 0;
        Hold { disk: self }
    }

    /// How many such calls were made since the last [`Faulty::forget`].
    pub fn count(&self, call: Call) -> usize {
        self.state().done.iter().filter(|done| done.0 == call).count()
    }

    /// The calls made since the last [`Faulty::forget`], in order.
    pub fn done(&self) -> Vec<Done> {
        let state = self.state();
        let name_of = |inode| {
            let found = state.names.iter().find(|(_, of)| **of == inode);
            found.map_or(String::new(), |(name, _)| name.clone())
        };
        let done = state.done.iter();
        done.map(|&(call, inode, offset, len)| {
            let file = name_of(inode);
            Done { call, file, offset, len }
        })
        .collect()
    }

    /// Begins to count anew.
    pub fn forget(&self) {
        self.state().done.clear();
    }

    /// What a power cut at this moment leaves, put into the empty directory `into`.
    /// With `seed` 0 that is what was synced and nothing else; other seeds keep any of
    /// the rest: changes of names, and pages of what was written.
    pub fn power_cut(&self, into: &Path, seed: u64) {
        let state = self.state();
        let mut random = Random::new(seed);
        let mut names = state.safe_names.clone();
        let mut files = state.safe_bytes.clone();
        if seed != 0 {
            for naming in state.unsafe_names.iter().filter(|_| random.below(2) == 0) {
                naming.apply(&mut names);
            }
            for (inode, change) in state.dropped.iter().chain(&state.unsafe_changes) {
                change.apply_in_part(files.entry(*inode).or_default(), &mut random);
            }
        }
        for (name, inode) in names {
            let bytes = files.get(&inode).map_or(&[][..], |bytes| bytes);
            fs::write(into.join(name), bytes).unwrap();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// Every call begins here: it is written down, held, and judged.
    fn begin(&self, call: Call, file: Option<&File>, at: (u64, u64)) -> Began<'_> {
        let inode = match file {
            Some(file) => file.metadata()?.ino(),
            None => 0,
        };
        let before = self.state().before;
        if let Some(before) = before {
            before(call);
        }
        self.let_others_go_first();
        let mut state = self.state();
        state.done.push((call, inode, at.0, at.1));
        let verdict = state.judge(call);
        match &mut state.held {
            Some((held, passing)) if *held == call && *passing > 0 => *passing -= 1,
            Some((held, _)) if *held == call => {
                state.arrived += 1;
                self.shared.changed.notify_all();
                while state.held == Some((call, 0)) {
                    state = self.shared.changed.wait(state).unwrap();
                }
            }
            _ => {}
        }
        Ok((state, inode, verdict?))
    }

    fn let_others_go_first(&self) {
        let (until, turns) = {
            let mut state = self.state();
            let others = state.done.len();
            let Some(random) = &mut state.waits else { return };
            (others + random.below(4), random.below(100))
        };
        for _ in 0..turns {
            if self.state().done.len() >= until {
                return;
            }
            thread::yield_now();
        }
    }

    fn begin_named(&self, call: Call) -> io::Result<MutexGuard<'_, State>> {
        Ok(self.begin(call, None, (0, 0))?.0)
    }
}

type Began<'a> = io::Result<(MutexGuard<'a, State>, Inode, Verdict)>;

fn failure() -> io::Error {
    io::Error::other("the test's disk fails here")
}

impl State {
    fn judge(&mut self, call: Call) -> io::Result<Verdict> {
        if self.stopped {
            self.failures += 1;
            return Err(failure());
        }
        let here = |fault: &Fault| {
            let is_ours = fault.thread.is_none_or(|id| id == thread::current().id());
            is_ours && fault.calls.contains(&call)
        };
        let mut due = None;
        for (number, fault) in self.faults.iter_mut().enumerate() {
            match here(fault) {
                true if fault.left == 0 => due = due.or(Some(number)),
                true => fault.left -= 1,
                false => {}
            }
        }
        let Some(number) = due else { return Ok(Verdict::Works) };
        self.failures += 1;
        let how = self.faults[number].how;
        match how {
            How::Always => self.faults[number].calls = call.alone(),
            How::Full => return Err(io::ErrorKind::StorageFull.into()),
            How::Stop => self.stopped = true,
            How::Once | How::Late | How::Short => drop(self.faults.remove(number)),
        }
        match how {
            How::Late => Ok(Verdict::Late),
            How::Short => Ok(Verdict::Half),
            _ => Err(failure()),
        }
    }

    fn rename(&mut self, naming: Naming) {
        naming.apply(&mut self.names);
        self.unsafe_names.push(naming);
    }
}

impl Disk for Faulty {
    fn list(&self) -> io::Result<Vec<String>> {
        drop(self.begin_named(Call::List)?);
        self.shared.directory.list()
    }

    fn open(&self, name: &str, create: bool) -> io::Result<File> {
        let mut state = self.begin_named(Call::Open)?;
        let file = self.shared.directory.open(name, create)?;
        if create {
            let inode = file.metadata()?.ino();
            if state.names.get(name) == Some(&inode) {
                state.unsafe_changes.push((inode, Change::Truncate(0)));
            } else {
                state.rename(Naming(None, Some((name.to_owned(), inode))));
            }
            state.open.insert(inode, file.try_clone()?);
        }
        Ok(file)
    }

    fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let at = (offset, buffer.len() as u64);
        let (state, _, verdict) = self.begin(Call::Read, Some(file), at)?;
        drop(state);
        let len = verdict.of(buffer.len());
        self.shared.directory.read(file, &mut buffer[..len], offset)?;
        if len < buffer.len() { Err(failure()) } else { Ok(()) }
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let at = (offset, bytes.len() as u64);
        let (mut state, inode, verdict) = self.begin(Call::Write, Some(file), at)?;
        let taken = &bytes[..verdict.of(bytes.len())];
        self.shared.directory.write(file, taken, offset)?;
        let change = Change::Write(offset, taken.to_vec());
        state.unsafe_changes.push((inode, change));
        if taken.len() < bytes.len() { Err(failure()) } else { Ok(()) }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        // Only what was written before the sync began is made safe by it.
        let inode = file.metadata()?.ino();
        let covered: Vec<_> = {
            let changes = &mut self.state().unsafe_changes;
            changes.extract_if(.., |(of, _)| *of == inode).collect()
        };
        match self.begin(Call::Sync, Some(file), (0, 0)) {
            Ok((mut state, inode, _)) => {
                let of_file = state.bad.iter().filter(|(of, _)| *of == inode);
                let mut bad: Vec<_> = of_file.map(|(_, range)| range.clone()).collect();
                let bytes = state.safe_bytes.entry(inode).or_default();
                for (_, change) in &covered {
                    if let Change::Truncate(len) = change {
                        bad.iter_mut()
                            .for_each(|it| it.end = it.end.min(*len as usize));
                    }
                    change.apply_around(bytes, &bad);
                }
                state.bad.retain(|(of, _)| *of != inode);
                state.bad.extend(bad.into_iter().map(|range| (inode, range)));
                if state.bad.iter().all(|(of, range)| *of != inode || range.is_empty())
                {
                    state.dropped.retain(|(of, _)| *of != inode);
                }
                Ok(())
            }
            Err(error) => {
                let mut state = self.state();
                for (_, change) in &covered {
                    if let Change::Write(offset, bytes) = change {
                        let start = *offset as usize;
                        state.bad.push((inode, start..start + bytes.len()));
                    }
                }
                state.dropped.extend(covered);
                Err(error)
            }
        }
    }

    fn reserve(&self, file: &File, len: u64) -> io::Result<()> {
        // What is in it matters to nobody.
        self.begin(Call::Reserve, Some(file), (len, 0)).map(drop)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        let (mut state, inode, _) = self.begin(Call::Truncate, Some(file), (len, 0))?;
        self.shared.directory.set_len(file, len)?;
        state.unsafe_changes.push((inode, Change::Truncate(len)));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut state, _, verdict) = self.begin(Call::Rename, None, (0, 0))?;
        self.shared.directory.rename(from, to)?;
        let inode = state.names[from];
        state.rename(Naming(Some(from.to_owned()), Some((to.to_owned(), inode))));
        if matches!(verdict, Verdict::Late) { Err(failure()) } else { Ok(()) }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut state, _, verdict) = self.begin(Call::Remove, None, (0, 0))?;
        self.shared.directory.remove(name)?;
        state.rename(Naming(Some(name.to_owned()), None));
        if matches!(verdict, Verdict::Late) { Err(failure()) } else { Ok(()) }
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.begin_named(Call::SyncDir)?;
        state.safe_names = state.names.clone();
        state.unsafe_names.clear();
        Ok(())
    }
}

/// Ends when dropped, in a failing test as well, so that no thread waits for ever.
pub struct Hold<'a> {
    disk: &'a Faulty,
}

impl Hold<'_> {
    /// Returns when so many calls have come to be held. Panics when they do not come,
    /// so that a call which is not made ends the test.
    pub fn wait_for(&self, calls: usize) {
        let state = self.disk.state();
        let waited = self.disk.shared.changed.wait_timeout_while(
            state,
            super::REPLY_TIMEOUT,
            |state| state.arrived < calls,
        );
        let (state, waited) = waited.unwrap();
        let arrived = state.arrived;
        // A lock that is poisoned would keep the others from being let go.
        drop(state);
        assert!(!waited.timed_out(), "{arrived} calls came, and not {calls}");
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        // A poisoned lock has already said why.
        if let Ok(mut state) = self.disk.shared.state.lock() {
            state.held = None;
        }
        self.disk.shared.changed.notify_all();
    }
}

/// Options for short logs: a record without its value has 35 + `key_size` + 2 bytes.
pub fn short(key_size: u16) -> Options {
    let settings =
        Settings { key_size: Some(key_size), int_size: Some(2), int_order: None };
    Options { settings, ..Options::default() }
}

/// A value with all that a client can see of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub flags: u32,
    pub cas: u64,
    pub value: Vec<u8>,
}

/// What a client sees at `now` of each of these keys that has a value.
pub fn contents(store: &Store, keys: &[&[u8]], now: u64) -> BTreeMap<Vec<u8>, Seen> {
    let mut session = Session::at(now);
    let mut contents = BTreeMap::new();
    for &key in keys {
        if let Some(item) = store.get(&mut session, key).unwrap() {
            let (flags, cas, value) = (item.flags, item.cas, item.value.to_vec());
            contents.insert(key.to_vec(), Seen { flags, cas, value });
        }
    }
    contents
}

/// The value of one key.
pub fn value(store: &Store, key: &[u8], now: u64) -> Option<Vec<u8>> {
    let mut session = Session::at(now);
    store.get(&mut session, key).unwrap().map(|item| item.value.to_vec())
}

/// All files of a directory with their bytes, to see whether anything was changed.
pub fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(path).unwrap())
        })
        .collect()
}

/// Puts such files into the directory, and removes all others.
pub fn put_files(path: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if !files.contains_key(entry.file_name().to_str().unwrap()) {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    for (name, bytes) in files {
        // Not emptied first: file systems hasten to write such a file out, which
        // costs milliseconds.
        let mut file = OpenOptions::new();
        let file = file.write(true).create(true).truncate(false).open(path.join(name));
        let file = file.unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        file.write_all_at(bytes, 0).unwrap();
    }
}

/// Leaves only some of the preallocated space: to read all of it, in thousands of starts,
/// takes long.
pub fn shorten(path: &Path) {
    const SOME: usize = 64;
    const ZEROS: [u8; SOME] = [0; SOME];
    for (name, bytes) in files(path) {
        let is_space = |bytes: &[u8]| *bytes == ZEROS[..bytes.len()];
        let end = bytes.chunks(SOME).rposition(|bytes| !is_space(bytes));
        let len = end.map_or(0, |end| (end + 2) * SOME);
        if len < bytes.len() {
            let file = OpenOptions::new().write(true).open(path.join(name));
            file.unwrap().set_len(len as u64).unwrap();
        }
    }
}

/// A record as it stands in a file.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its first byte in the file, and the first one after it.
    pub start: usize,
    pub end: usize,
    pub position: u64,
    pub kind: Kind,
    pub exptime: u64,
    pub synced: u64,
    pub key: Vec<u8>,
    pub seen: Seen,
}

/// The bytes of a file without the zeros into which the log has not yet written. The
/// last record must not end in one.
pub fn written(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &bytes[..end.max(HEADER_LEN)]
}

/// The records of a file all of which are good.
pub fn records(bytes: &[u8]) -> Vec<Found> {
    let header = Header::decode(bytes).unwrap().unwrap();
    let format: Format = header.format;
    let mut found = Vec::new();
    let mut start = HEADER_LEN;
    // A record does not begin with its checksum and its kind all zeros; what follows it may.
    while bytes[start..].iter().any(|&byte| byte != 0) {
        let position = header.base + start as u64;
        let len = format.stated_len(&bytes[start..], position).unwrap();
        let end = start + len as usize;
        let record: Record = format.decode(&bytes[start..end], position).unwrap();
        found.push(Found {
            start,
            end,
            position,
            kind: record.kind,
            exptime: record.exptime,
            synced: record.synced,
            key: record.key.to_vec(),
            seen: Seen {
                flags: record.flags,
                cas: record.cas,
                value: record.value.to_vec(),
            },
        });
        start = end;
    }
    found
}
