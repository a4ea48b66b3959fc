//! The few system calls that the standard library lacks: waiting for many sockets at
//! once, what the kernel queues for one, the limits on open files and on their size, the
//! mask of file modes, and the CPU time used. The only unsafe code.
//!
//! [`Poller`] is one interface over two calls. `epoll` (Linux) keeps the set of
//! sockets in the kernel, and a wait costs what is ready. `poll` (every Unix) hands
//! the whole set over at each wait, and costs what there is; it is what other systems
//! run, and on Linux the tests run both. Both are level-triggered: a socket is
//! reported as long as it is ready, so whoever leaves bytes unread hears of it again.
//!
//! Left out: `kqueue`, which would make macOS and the BSDs as quick as Linux with
//! thousands of connections, for one more implementation to keep.
#![allow(unsafe_code)]

use crate::lock;
use std::ffi::{c_int, c_long};
use std::io::{self, Result};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a socket is watched for. An error or a hang-up is reported in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// There are bytes to read, or the other side has closed.
    Read,
    /// There is room to write.
    Write,
}

/// A set of sockets, and the wait for one of them to become ready.
pub trait Poller: Sized + Send + 'static {
    /// An empty set.
    fn new() -> Result<Self>;
    /// Watches `fd`, which is reported as `token`. Its owner removes it before it is
    /// closed.
    fn add(&mut self, fd: BorrowedFd, token: usize, for_: Interest) -> Result<()>;
    /// Watches `fd` no longer.
    fn remove(&mut self, fd: BorrowedFd) -> Result<()>;
    /// Waits until something is ready, at most `timeout`, and puts the tokens of what
    /// is into `ready`. None after the timeout, or when a signal came.
    fn wait(&mut self, ready: &mut Vec<usize>, timeout: Option<Duration>)
    -> Result<()>;
}

/// The best poller that this system has.
#[cfg(target_os = "linux")]
pub type Best = Epoll;
/// The best poller that this system has.
#[cfg(not(target_os = "linux"))]
pub type Best = Poll;

/// In milliseconds, rounded up so that a deadline has passed when the wait is over.
fn milliseconds(timeout: Option<Duration>) -> c_int {
    timeout.map_or(-1, |timeout| {
        c_int::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX)
    })
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

    /// Events taken from the kernel at one wait; what else is ready comes with the
    /// next.
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
        fn epoll_wait(
            epfd: c_int,
            events: *mut Event,
            max: c_int,
            timeout: c_int,
        ) -> c_int;
    }

    /// The set is kept by the kernel.
    pub struct Epoll {
        fd: OwnedFd,
        events: Vec<Event>,
    }

    impl Epoll {
        fn control(
            &self,
            op: c_int,
            fd: BorrowedFd,
            token: usize,
            for_: Interest,
        ) -> Result<()> {
            let events = match for_ {
                Interest::Read => EPOLLIN,
                Interest::Write => EPOLLOUT,
            };
            let mut event = Event { events, data: token as u64 };
            // SAFETY: both descriptors are open, and the kernel copies the event.
            check(unsafe {
                epoll_ctl(self.fd.as_raw_fd(), op, fd.as_raw_fd(), &mut event)
            })?;
            Ok(())
        }
    }

    impl Poller for Epoll {
        fn new() -> Result<Epoll> {
            // SAFETY: the call takes no memory of ours; the descriptor is new, and
            // nobody else's.
            let fd =
                unsafe { OwnedFd::from_raw_fd(check(epoll_create1(EPOLL_CLOEXEC))?) };
            Ok(Epoll { fd, events: vec![Event { events: 0, data: 0 }; BATCH] })
        }

        fn add(&mut self, fd: BorrowedFd, token: usize, for_: Interest) -> Result<()> {
            self.control(EPOLL_CTL_ADD, fd, token, for_)
        }

        fn remove(&mut self, fd: BorrowedFd) -> Result<()> {
            self.control(EPOLL_CTL_DEL, fd, 0, Interest::Read)
        }

        fn wait(
            &mut self,
            ready: &mut Vec<usize>,
            timeout: Option<Duration>,
        ) -> Result<()> {
            ready.clear();
            // SAFETY: `events` has room for BATCH events, of which the kernel fills as
            // many as it returns.
            let count = check_wait(unsafe {
                epoll_wait(
                    self.fd.as_raw_fd(),
                    self.events.as_mut_ptr(),
                    BATCH as c_int,
                    milliseconds(timeout),
                )
            })?;
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

/// The set is ours, and handed to the kernel at each wait.
pub struct Poll {
    fds: Vec<PollFd>,
    /// The token of the descriptor at the same place in `fds`.
    tokens: Vec<usize>,
}

impl Poll {
    fn place(&self, fd: RawFd) -> Result<usize> {
        let place = self.fds.iter().position(|poll_fd| poll_fd.fd == fd);
        place.ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn poll_fd(fd: BorrowedFd, for_: Interest) -> PollFd {
    let events = match for_ {
        Interest::Read => POLLIN,
        Interest::Write => POLLOUT,
    };
    PollFd { fd: fd.as_raw_fd(), events, revents: 0 }
}

impl Poller for Poll {
    fn new() -> Result<Poll> {
        Ok(Poll { fds: Vec::new(), tokens: Vec::new() })
    }

    fn add(&mut self, fd: BorrowedFd, token: usize, for_: Interest) -> Result<()> {
        self.fds.push(poll_fd(fd, for_));
        self.tokens.push(token);
        Ok(())
    }

    fn remove(&mut self, fd: BorrowedFd) -> Result<()> {
        let place = self.place(fd.as_raw_fd())?;
        self.fds.swap_remove(place);
        self.tokens.swap_remove(place);
        Ok(())
    }

    fn wait(
        &mut self,
        ready: &mut Vec<usize>,
        timeout: Option<Duration>,
    ) -> Result<()> {
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

#[cfg(target_os = "linux")]
const RLIMIT_NOFILE: c_int = 7;
#[cfg(not(target_os = "linux"))]
const RLIMIT_NOFILE: c_int = 8;

#[repr(C)]
struct Limit {
    current: u64,
    max: u64,
}

#[cfg(target_os = "macos")]
type Microseconds = i32;
#[cfg(not(target_os = "macos"))]
type Microseconds = c_long;

#[cfg(any(target_os = "macos", target_os = "freebsd"))]
type Mode = u16;
#[cfg(not(any(target_os = "macos", target_os = "freebsd")))]
type Mode = u32;

#[repr(C)]
#[derive(Default)]
struct TimeValue {
    seconds: c_long,
    microseconds: Microseconds,
}

#[repr(C)]
#[derive(Default)]
struct Usage {
    user: TimeValue,
    system: TimeValue,
    _rest: [c_long; 14],
}

unsafe extern "C" {
    fn poll(fds: *mut PollFd, count: PollCount, timeout: c_int) -> c_int;
    fn listen(fd: c_int, backlog: c_int) -> c_int;
    fn getrlimit(resource: c_int, limit: *mut Limit) -> c_int;
    fn setrlimit(resource: c_int, limit: *const Limit) -> c_int;
    fn umask(mask: Mode) -> Mode;
    fn getrusage(who: c_int, usage: *mut Usage) -> c_int;
    fn signal(number: c_int, handler: usize) -> usize;
}

/// What a process is sent that makes a file longer than it may be: the same number on
/// the BSDs and on all of Linux but two processors of the past.
const SIGXFSZ: c_int = 25;
const SIG_IGN: usize = 1;

/// Lets this process have `wanted` files open at once. The error is the number that
/// the system allows instead.
pub fn raise_descriptor_limit(wanted: u64) -> std::result::Result<(), u64> {
    let mut limit = Limit { current: 0, max: 0 };
    // SAFETY: the call fills the struct that it is given, of the layout it expects.
    if unsafe { getrlimit(RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(0);
    }
    if limit.current >= wanted {
        return Ok(());
    }
    let raised = Limit { current: wanted, max: limit.max.max(wanted) };
    // SAFETY: the call only reads the struct.
    if unsafe { setrlimit(RLIMIT_NOFILE, &raised) } == 0 {
        return Ok(());
    }
    Err(limit.max)
}

/// Has a write beyond the file-size limit (`ulimit -f`) fail, as on a full disk. The
/// signal that comes with it would end the process; the standard library lets it.
pub fn outlive_file_size_limit() {
    // SAFETY: the signal is ignored, so no code of ours runs when it comes.
    unsafe { signal(SIGXFSZ, SIG_IGN) };
}

/// Lets `waiting` connections queue in the kernel until they are accepted. The
/// standard library asks for 128, fewer than may knock at the same moment.
pub fn deepen_queue(listener: BorrowedFd, waiting: i32) -> Result<()> {
    // SAFETY: the descriptor is open; the call takes no memory.
    check(unsafe { listen(listener.as_raw_fd(), waiting) }).map(|_| ())
}

/// Has `make` make something in the file system on which nobody but its owner has any
/// rights, from its first moment. The mask is the whole process's: what another thread
/// makes meanwhile may get fewer rights than it asks for.
pub fn make_private<T>(make: impl FnOnce() -> T) -> T {
    // One at a time: else the one would put back what the other has set.
    static MASK: Mutex<()> = Mutex::new(());
    let _held = lock(&MASK);
    // SAFETY: the call takes no memory, and can't fail.
    let before = unsafe { umask(0o077) };
    let made = make();
    // SAFETY: as above.
    unsafe { umask(before) };
    made
}

/// Lets at most about `bytes` wait in the kernel until they can be sent, on every
/// connection that comes from this listener.
#[cfg(target_os = "linux")]
pub fn limit_unsent(listener: BorrowedFd, bytes: c_int) -> Result<()> {
    use std::ffi::c_uint;
    unsafe extern "C" {
        fn setsockopt(
            fd: c_int,
            level: c_int,
            name: c_int,
            value: *const c_int,
            len: c_uint,
        ) -> c_int;
    }
    const IPPROTO_TCP: c_int = 6;
    const TCP_NOTSENT_LOWAT: c_int = 25;
    let (fd, len) = (listener.as_raw_fd(), size_of::<c_int>() as c_uint);
    // SAFETY: the descriptor is open, and the kernel copies the number, which is as long
    // as it is told.
    check(unsafe { setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, len) })
        .map(|_| ())
}

/// Elsewhere the system decides.
#[cfg(not(target_os = "linux"))]
pub fn limit_unsent(_: BorrowedFd, _: c_int) -> Result<()> {
    Ok(())
}

/// The CPU time that this process has used, as user and as system.
pub fn cpu_time() -> (Duration, Duration) {
    let mut usage = Usage::default();
    // SAFETY: the call fills the struct that it is given, of the layout it expects.
    // 0 asks for the whole process. It can't fail with these arguments.
    unsafe { getrusage(0, &mut usage) };
    let duration = |time: &TimeValue| {
        let micros = time.seconds as u64 * 1_000_000 + time.microseconds as u64;
        Duration::from_micros(micros)
    };
    (duration(&usage.user), duration(&usage.system))
}

/// The time, in Unix seconds. A clock before 1970 counts as 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    fn reports_what_is_ready<P: Poller>() {
        let mut poller = P::new().unwrap();
        let mut ready = Vec::new();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        let (other, _other_end) = UnixStream::pair().unwrap();
        poller.add(near.as_fd(), 7, Interest::Read).unwrap();
        poller.add(other.as_fd(), 8, Interest::Read).unwrap();
        poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert_eq!(ready, []);

        far.write_all(b"x").unwrap();
        for _ in 0..2 {
            // Level-triggered: unread, it is reported again.
            poller.wait(&mut ready, None).unwrap();
            assert_eq!(ready, [7]);
        }
        near.read_exact(&mut [0]).unwrap();
        poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert_eq!(ready, []);

        poller.remove(near.as_fd()).unwrap();
        poller.add(near.as_fd(), 9, Interest::Write).unwrap();
        poller.wait(&mut ready, None).unwrap();
        assert_eq!(ready, [9]);

        poller.remove(near.as_fd()).unwrap();
        poller.wait(&mut ready, Some(Duration::ZERO)).unwrap();
        assert_eq!(ready, []);

        poller.add(near.as_fd(), 3, Interest::Read).unwrap();
        drop(far);
        poller.wait(&mut ready, None).unwrap();
        assert_eq!(ready, [3], "a hang-up is readable");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn epoll_reports_what_is_ready() {
        reports_what_is_ready::<Epoll>();
    }

    #[test]
    fn poll_reports_what_is_ready() {
        reports_what_is_ready::<Poll>();
    }

    #[test]
    fn a_timeout_is_rounded_up() {
        assert_eq!(milliseconds(None), -1);
        assert_eq!(milliseconds(Some(Duration::ZERO)), 0);
        assert_eq!(milliseconds(Some(Duration::from_micros(1))), 1);
        assert_eq!(milliseconds(Some(Duration::from_micros(1000))), 1);
        assert_eq!(milliseconds(Some(Duration::MAX)), c_int::MAX);
    }

    #[test]
    fn an_impossible_descriptor_limit_says_what_is_possible() {
        assert_eq!(raise_descriptor_limit(1), Ok(()));
        assert!(raise_descriptor_limit(u64::MAX / 2).is_err());
    }

    #[test]
    fn cpu_time_grows() {
        let before = cpu_time();
        let mut sum = 0u64;
        while cpu_time().0 + cpu_time().1 <= before.0 + before.1 {
            sum = std::hint::black_box(sum + 1);
        }
    }
}
