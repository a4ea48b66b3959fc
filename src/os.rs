//! The few system calls that the standard library lacks: waiting for many sockets at
//! once, what the kernel queues for one, signals, and the limits on open files and on their
//! size. The only unsafe code.
//!
//! [`Poller`] is one interface over two calls. `epoll` (Linux) keeps the set of
//! sockets in the kernel, and a wait costs what is ready. `poll` (every Unix) passes
//! the whole set at each wait, and costs what there is; other systems use it, and on
//! Linux the tests run both. Both are level-triggered: a socket is reported as long as
//! it is ready, so bytes that are left unread are reported again.
//!
//! Left out: `kqueue`, which would make macOS and the BSDs as fast as Linux with
//! thousands of connections, for one more implementation to maintain.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint};
use std::fs;
use std::io::{self, Result};
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a socket is watched for. An error or a hang-up is reported in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// There are bytes to read, or the other side has closed.
    Read,
    /// There is room to write.
    Write,
}

/// A set of sockets, the wait for one of them to become ready, and the time: all that a
/// worker asks of the system. A test that simulates it has one of its own.
pub trait Poller: Send {
    /// Watches `fd`, which is reported as `token`. Its owner removes it before it is
    /// closed.
    fn add(&mut self, fd: BorrowedFd, token: usize, interest: Interest) -> Result<()>;
    /// Watches `fd` no longer.
    fn remove(&mut self, fd: BorrowedFd) -> Result<()>;
    /// Waits until something is ready, at most `timeout`, and replaces the content of
    /// `ready` by its tokens: none after the timeout, or when a signal came.
    fn wait(&mut self, ready: &mut Vec<usize>, timeout: Duration) -> Result<()>;
    /// The time by which timeouts are measured.
    fn now(&self) -> Instant {
        Instant::now()
    }
    /// The time by which items expire, in Unix seconds.
    fn unix_now(&self) -> u64 {
        unix_now()
    }
}

/// A new poller, of the best kind that this system has.
pub fn poller() -> Result<Box<dyn Poller>> {
    #[cfg(target_os = "linux")]
    return Ok(Box::new(Epoll::new()?));
    #[cfg(not(target_os = "linux"))]
    return Ok(Box::new(Poll::default()));
}

/// In milliseconds, rounded up so that a deadline has passed when the wait is over.
fn milliseconds(timeout: Duration) -> c_int {
    timeout.as_micros().div_ceil(1000).try_into().unwrap_or(c_int::MAX)
}

fn check(result: c_int) -> Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A wait that a signal ended has found nothing.
fn check_wait(result: c_int) -> Result<usize> {
    match check(result) {
        Ok(count) => Ok(count as usize),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(target_os = "linux")]
pub use epoll::Epoll;

#[cfg(target_os = "linux")]
mod epoll {
    use super::*;
    use std::os::fd::{FromRawFd, OwnedFd};

    const EPOLL_CLOEXEC: c_int = 0o2000000;
    const EPOLL_CTL_ADD: c_int = 1;
    const EPOLL_CTL_DEL: c_int = 2;
    const EPOLLIN: u32 = 1;
    const EPOLLOUT: u32 = 4;

    /// Events taken from the kernel per wait; what else is ready comes with the next.
    const BATCH: usize = 512;

    // The kernel packs it on x86-64 alone.
    #[derive(Clone, Copy)]
    #[cfg_attr(target_arch = "x86_64", repr(C, packed))]
    #[cfg_attr(not(target_arch = "x86_64"), repr(C))]
    struct Event {
        events: u32,
        data: u64,
    }

    unsafe extern "C" {
        fn epoll_create1(flags: c_int) -> c_int;
        fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut Event) -> c_int;
        fn epoll_wait(epfd: c_int, events: *mut Event, max: c_int, ms: c_int) -> c_int;
    }

    /// The set is kept by the kernel.
    pub struct Epoll {
        fd: OwnedFd,
        events: Vec<Event>,
    }

    impl Epoll {
        /// An empty set.
        pub fn new() -> Result<Epoll> {
            // SAFETY: the call takes no memory of ours; the descriptor is new, and
            // nobody else's.
            let fd =
                unsafe { OwnedFd::from_raw_fd(check(epoll_create1(EPOLL_CLOEXEC))?) };
            Ok(Epoll { fd, events: vec![Event { events: 0, data: 0 }; BATCH] })
        }

        fn control(
            &self,
            op: c_int,
            fd: BorrowedFd,
            token: usize,
            interest: Interest,
        ) -> Result<()> {
            let events = if interest == Interest::Read { EPOLLIN } else { EPOLLOUT };
            let mut event = Event { events, data: token as u64 };
            // SAFETY: both descriptors are open, and the kernel copies the event.
            check(unsafe {
                epoll_ctl(self.fd.as_raw_fd(), op, fd.as_raw_fd(), &mut event)
            })?;
            Ok(())
        }
    }

    impl Poller for Epoll {
        fn add(&mut self, fd: BorrowedFd, token: usize, it: Interest) -> Result<()> {
            self.control(EPOLL_CTL_ADD, fd, token, it)
        }

        fn remove(&mut self, fd: BorrowedFd) -> Result<()> {
            self.control(EPOLL_CTL_DEL, fd, 0, Interest::Read)
        }

        fn wait(&mut self, ready: &mut Vec<usize>, timeout: Duration) -> Result<()> {
            let (events, max) = (self.events.as_mut_ptr(), BATCH as c_int);
            // SAFETY: `events` has room for BATCH events, of which the kernel fills as
            // many as it returns.
            let count = check_wait(unsafe {
                epoll_wait(self.fd.as_raw_fd(), events, max, milliseconds(timeout))
            })?;
            ready.clear();
            ready.extend(self.events[..count].iter().map(|event| event.data as usize));
            Ok(())
        }
    }
}

const POLLIN: i16 = 1;
const POLLOUT: i16 = 4;

#[derive(Clone, Copy)]
#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

// The kernel's count of descriptors has another width on macOS.
#[cfg(target_os = "macos")]
type PollCount = std::ffi::c_uint;
#[cfg(not(target_os = "macos"))]
type PollCount = std::ffi::c_ulong;

/// The set is ours, and passed to the kernel at each wait.
#[derive(Default)]
pub struct Poll {
    fds: Vec<PollFd>,
    /// The token of the descriptor at the same place in `fds`.
    tokens: Vec<usize>,
}

impl Poller for Poll {
    fn add(&mut self, fd: BorrowedFd, token: usize, interest: Interest) -> Result<()> {
        let events = if interest == Interest::Read { POLLIN } else { POLLOUT };
        self.fds.push(PollFd { fd: fd.as_raw_fd(), events, revents: 0 });
        self.tokens.push(token);
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd) -> Result<()> {
        let place = self.fds.iter().position(|watched| watched.fd == fd.as_raw_fd());
        let place = place.ok_or(io::ErrorKind::NotFound)?;
        self.fds.swap_remove(place);
        self.tokens.swap_remove(place);
        Ok(())
    }

    fn wait(&mut self, ready: &mut Vec<usize>, timeout: Duration) -> Result<()> {
        ready.clear();
        let count = self.fds.len() as PollCount;
        // SAFETY: `fds` has as many elements as is said.
        check_wait(unsafe {
            poll(self.fds.as_mut_ptr(), count, milliseconds(timeout))
        })?;
        for (poll_fd, &token) in self.fds.iter_mut().zip(&self.tokens) {
            // Cleared by us: after an error the kernel has not touched it.
            if std::mem::take(&mut poll_fd.revents) != 0 {
                ready.push(token);
            }
        }
        Ok(())
    }
}

const RLIMIT_NOFILE: c_int = if cfg!(target_os = "linux") { 7 } else { 8 };

#[repr(C)]
struct Limit {
    current: u64,
    max: u64,
}

unsafe extern "C" {
    fn poll(fds: *mut PollFd, count: PollCount, timeout: c_int) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn setsockopt(
        fd: c_int,
        level: c_int,
        name: c_int,
        value: *const c_int,
        len: c_uint,
    ) -> c_int;
    fn getrlimit(resource: c_int, limit: *mut Limit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const Limit) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
    fn write(fd: c_int, bytes: *const u8, count: usize) -> isize;
    fn _exit(code: c_int) -> !;
    safe fn umask(mask: c_int) -> c_int;
    /// The user that this process acts as.
    pub safe fn geteuid() -> u32;
}

/// The signal to a process that extends a file beyond its limit: the same number on the
/// BSDs and on Linux for all processors of today.
const SIGXFSZ: c_int = 25;
const SIG_IGN: usize = 1;
const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;

/// The socket on which the next signal is reported; -1 while the next one ends the process.
static REPORT: AtomicI32 = AtomicI32::new(-1);

/// Makes SIGTERM and SIGINT end this process, also where it is process 1 of a container, for
/// which the kernel drops every signal without a handler.
pub fn end_on_signals() {
    extern "C" fn handle(number: c_int) {
        let name = if number == SIGINT { "SIGINT" } else { "SIGTERM" };
        // SAFETY: both calls are safe in a signal handler, and the name outlives them.
        match REPORT.swap(-1, Relaxed) {
            -1 => unsafe { _exit(128 + number) },
            fd => unsafe { write(fd, name.as_ptr(), name.len()) },
        };
    }
    for number in [SIGINT, SIGTERM] {
        // SAFETY: the handler does nothing that a handler must not do.
        unsafe { signal(number, handle as *const () as usize) };
    }
}

/// From now on, the first of these signals is reported: its name can be read from the
/// socket that is returned. A second one ends the process.
pub fn report_signal() -> Result<UnixStream> {
    let (near, far) = UnixStream::pair()?;
    near.set_nonblocking(true)?;
    // It stays open as long as the process runs.
    REPORT.store(far.into_raw_fd(), Relaxed);
    Ok(near)
}

/// Lets this process have `wanted` files open at once. The error is the number that
/// the system allows instead.
pub fn raise_descriptor_limit(wanted: u64) -> std::result::Result<(), u64> {
    let mut limit = Limit { current: 0, max: 0 };
    // SAFETY: the call fills the struct that it is given, of the layout it expects.
    if unsafe { getrlimit(RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(0);
    }
    let wanted = wanted.max(limit.current);
    let raised = Limit { current: wanted, max: limit.max.max(wanted) };
    // SAFETY: the call only reads the struct.
    if unsafe { setrlimit(RLIMIT_NOFILE, &raised) } == 0 {
        return Ok(());
    }
    Err(limit.max)
}

/// Makes a write beyond the file-size limit (`ulimit -f`) fail as on a full disk. The
/// signal that comes with it would end the process.
pub fn outlive_file_size_limit() {
    // SAFETY: the signal is ignored, so no code of ours runs when it comes.
    unsafe { signal(SIGXFSZ, SIG_IGN) };
}

/// Makes the allocator merge each small block when it is freed. As a rule, glibc does that for
/// all of them at once, in the next thread that needs memory: with the keys of a flush, a
/// worker was busy with it for half a second.
pub fn merge_freed_blocks() {
    #[cfg(target_env = "gnu")]
    {
        const M_MXFAST: c_int = 1;
        unsafe extern "C" {
            safe fn mallopt(parameter: c_int, value: c_int) -> c_int;
        }
        mallopt(M_MXFAST, 0);
    }
}

/// Lets `waiting` connections queue in the kernel until they are accepted. The
/// standard library asks for 128, fewer than may connect at the same moment.
pub fn deepen_queue(listener: BorrowedFd, waiting: i32) -> Result<()> {
    // SAFETY: the descriptor is open; the call takes no memory.
    check(unsafe { listen(listener.as_raw_fd(), waiting) }).map(|_| ())
}

/// Lets at most about `bytes` wait in the kernel until they can be sent, on every
/// connection that comes from this listener. Outside Linux the system decides.
pub fn limit_unsent(listener: BorrowedFd, bytes: c_int) -> Result<()> {
    if cfg!(not(target_os = "linux")) {
        return Ok(());
    }
    const IPPROTO_TCP: c_int = 6;
    const TCP_NOTSENT_LOWAT: c_int = 25;
    let (fd, len) = (listener.as_raw_fd(), size_of::<c_int>() as c_uint);
    // SAFETY: the descriptor is open, and the kernel copies the number, which is as long
    // as it is told.
    check(unsafe { setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, len) })?;
    Ok(())
}

/// Extends a file to `len` bytes, for which the disk has room from then on. Where the
/// system has no such call, nothing happens.
#[allow(unused_variables)]
pub fn allocate(file: BorrowedFd, len: u64) -> Result<()> {
    #[cfg(all(not(target_os = "macos"), target_pointer_width = "64"))]
    {
        unsafe extern "C" {
            fn posix_fallocate(fd: c_int, offset: i64, len: i64) -> c_int;
        }
        // SAFETY: the descriptor is open; the call takes no memory.
        let code = unsafe { posix_fallocate(file.as_raw_fd(), 0, len as i64) };
        if code != 0 {
            return Err(io::Error::from_raw_os_error(code));
        }
    }
    Ok(())
}

/// Listens at a path, in the place of a socket whose server is gone. Nobody but the
/// socket's owner can connect to it, from its first moment.
pub fn bind_private(path: &Path) -> Result<UnixListener> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        fs::remove_file(path)?;
    }
    // What others may not do to a file that is made, also in another thread meanwhile.
    let mask = umask(0o077);
    let bound = UnixListener::bind(path);
    umask(mask);
    bound
}

/// Whether a read or write found nothing to do, or was ended by a signal.
pub fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The CPU time that this process has used, as user and as system, in seconds: what `stats`
/// shows as `rusage_user` and `rusage_system`. 0 where the system does not have Linux's
/// file of it, which counts hundredths.
pub fn cpu_seconds() -> (f64, f64) {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may have spaces in it.
    let fields = text.rsplit(") ").next().unwrap_or_default().split(' ');
    let mut ticks = fields.skip(11).map(|field| field.parse().unwrap_or(0.0));
    let mut seconds = || ticks.next().unwrap_or(0.0) / 100.0;
    (seconds(), seconds())
}

/// The time, in Unix seconds. It never goes back: the system's clock is read once, and from
/// then on time passes.
pub fn unix_now() -> u64 {
    static START: OnceLock<(SystemTime, Instant)> = OnceLock::new();
    let (at, start) = START.get_or_init(|| (SystemTime::now(), Instant::now()));
    let time = (*at + start.elapsed()).duration_since(UNIX_EPOCH);
    // A clock before 1970 counts as 1970.
    time.map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn reports_what_is_ready(mut poller: impl Poller) {
        let mut ready = Vec::new();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let (other, _other_end) = UnixStream::pair().unwrap();
        poller.add(near.as_fd(), 7, Interest::Read).unwrap();
        poller.add(other.as_fd(), 8, Interest::Read).unwrap();
        poller.wait(&mut ready, Duration::ZERO).unwrap();
        assert_eq!(ready, []);

        far.write_all(b"x").unwrap();
        for _ in 0..2 {
            // Level-triggered: unread, it is reported again.
            poller.wait(&mut ready, Duration::MAX).unwrap();
            assert_eq!(ready, [7]);
        }
        near.read_exact(&mut [0]).unwrap();
        poller.wait(&mut ready, Duration::ZERO).unwrap();
        assert_eq!(ready, []);

        poller.remove(near.as_fd()).unwrap();
        poller.add(near.as_fd(), 9, Interest::Write).unwrap();
        poller.wait(&mut ready, Duration::MAX).unwrap();
        assert_eq!(ready, [9]);

        poller.remove(near.as_fd()).unwrap();
        poller.wait(&mut ready, Duration::ZERO).unwrap();
        assert_eq!(ready, []);

        poller.add(near.as_fd(), 3, Interest::Read).unwrap();
        drop(far);
        poller.wait(&mut ready, Duration::MAX).unwrap();
        assert_eq!(ready, [3], "a hang-up is readable");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn epoll_reports_what_is_ready() {
        reports_what_is_ready(Epoll::new().unwrap());
    }

    #[test]
    fn poll_reports_what_is_ready() {
        reports_what_is_ready(Poll::default());
    }

    #[test]
    fn a_timeout_is_rounded_up() {
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::from_micros(1)), 1);
        assert_eq!(milliseconds(Duration::from_micros(1000)), 1);
        assert_eq!(milliseconds(Duration::MAX), c_int::MAX);
    }

    #[test]
    fn an_impossible_descriptor_limit_says_what_is_possible() {
        assert_eq!(raise_descriptor_limit(1), Ok(()));
        assert!(raise_descriptor_limit(u64::MAX / 2).is_err());
    }
}
