//! Judges what clients were told of one key: is there an order of their operations in
//! which each answer is right?
//!
//! Nobody knows when an operation took effect, only that it was between its call and
//! its end. A history is *linearizable* (Herlihy and Wing, 1990) if a moment can be
//! chosen for each, within its bounds, so that a plain register, doing one operation
//! after another, gives the same answers. An operation without an answer was
//! under way when the server was killed: it took effect before the kill or never.
//!
//! Trying all orders is hopeless; two things make it fast (Wing and Gong, 1993; Lowe,
//! 2017). The history is gone through from moment to moment, and an operation is given
//! its place only when one ends that has to have had it. And what has been found is a
//! set of pairs, a state and whose open operations are done in it: two ways to the same
//! pair are one. Where no operation is open, only states are left.
//!
//! An item that expires, and a flush that is due later, depend on a clock. Of an operation
//! is known what the clock showed at its call and at its end, and so of every deadline a
//! first and a last second. Where an operation may have come before the deadline or after
//! it, both are tried, and what is tried is known from then on: what has expired for one
//! client has expired for all that come after it.
//!
//! A test that makes a history ensures that a client has one operation under way, that no
//! value is stored twice, and that a `cas` uses a unique that a `gets` has shown: so a
//! unique stands for a value. Answers are in the protocol's words, a hit as `VALUE` and
//! the value.

use memcached_lite::store::expiry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::ptr;

/// What a client asks of a key.
#[derive(Clone, Debug)]
pub enum Asked {
    Get,
    Gets,
    /// With an exptime, as on the wire; likewise below.
    Gat(i64),
    Touch(i64),
    Set(String, i64),
    Add(String, i64),
    Append(String),
    /// The second is the unique.
    Cas(String, u64, i64),
    Incr(u64),
    Delete,
    /// Asked of all keys, which is to say of each; with the delay.
    FlushAll(i64),
}

/// The answer of an operation that wanted none, and of which a later answer on the same
/// connection says that it is done.
pub const SILENT: &str = "(noreply)";

/// What a client asked, and what it knows of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Whose it is, 0 to 63.
    pub client: usize,
    /// When it was sent. Moments are numbers that only grow.
    pub call: u64,
    /// When its answer was there; without one, when it could no longer take effect.
    pub end: u64,
    pub asked: Asked,
    pub answer: Option<String>,
    /// The unique that a `gets` showed.
    pub unique: Option<u64>,
    /// What the clock showed at the call and at the end, in Unix seconds.
    pub clock: (u64, u64),
}

impl Operation {
    fn bit(&self) -> u64 {
        1 << self.client
    }

    /// Whether it changes nothing, unless by having seen that a deadline has passed or not.
    fn only_looks(&self) -> bool {
        matches!(self.asked, Asked::Get | Asked::Gets)
            || matches!(
                self.answer.as_deref(),
                Some("END" | "NOT_STORED" | "NOT_FOUND" | "EXISTS")
            )
    }

    /// Whether it was over before the other began, or stood before it in one stream.
    fn precedes(&self, other: &Operation) -> bool {
        let is_same_stream = (self.client, self.call) == (other.client, other.call);
        self.end < other.call || (is_same_stream && self.end < other.end)
    }

    /// The deadline that an exptime of this operation means.
    fn deadline(&self, exptime: i64) -> Deadline {
        let at = |now| Some(expiry(exptime, now)).filter(|&second| second != 0);
        let (first, last) = self.clock;
        at(first).zip(at(last)).unwrap_or(NEVER)
    }
}

/// The first and the last Unix second at which it may be.
type Deadline = (u64, u64);

const NEVER: Deadline = (u64::MAX, u64::MAX);

/// What a register holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// `None` if there is none.
    value: Option<String>,
    expires: Deadline,
    /// When a pending flush is due.
    flush: Deadline,
}

impl State {
    /// Without a value.
    fn emptied(&self) -> State {
        State { value: None, expires: NEVER, ..*self }
    }

    fn with(&self, value: String, expires: Deadline) -> State {
        State { value: Some(value), expires, ..*self }
    }

    /// The ways things may stand when something happens between these seconds.
    fn at(&self, clock: (u64, u64)) -> Vec<State> {
        let mut ways = Vec::new();
        let (flush, expires) = (pass(self.flush, clock), pass(self.expires, clock));
        if flush.is_passed {
            ways.push(State { flush: NEVER, ..self.emptied() });
        }
        if let Some(flush) = flush.ahead {
            if expires.is_passed {
                ways.push(State { flush, ..self.emptied() });
            }
            let ahead = expires.ahead.map(|expires| (expires, self.value.clone()));
            ways.extend(ahead.map(|(expires, value)| State { value, expires, flush }));
        }
        ways
    }
}

/// What may be true of a deadline.
struct Passing {
    is_passed: bool,
    /// What is known of it if it is still ahead, which it may be.
    ahead: Option<Deadline>,
}

fn pass((first, last): Deadline, (from, to): (u64, u64)) -> Passing {
    let ahead = (last > from).then_some((first.max(from + 1), last));
    Passing { is_passed: first <= to, ahead }
}

/// A way things may stand: the state, and whose open operations are done in it, a bit
/// for each client.
type Pair = (State, u64);

/// Of the operations before the one that can't be explained, so many are shown.
const CONTEXT: usize = 8;

/// Whether an order of `history` explains all its answers, beginning with no value. The
/// error shows the part that has no explanation.
pub fn check(history: Vec<Operation>) -> Result<(), String> {
    History::new(history).explain()
}

/// Whether an order explains the histories of all keys. Each key has one of its own, as long
/// as an operation is asked of one key; a flush is asked of all, and has to be one moment
/// for all.
pub fn check_all(histories: Vec<Vec<Operation>>) -> Result<(), String> {
    let mut histories: Vec<History> = histories.into_iter().map(History::new).collect();
    let mut keys = HashMap::new();
    for (key, history) in histories.iter_mut().enumerate() {
        history.explain().map_err(|why| format!("key k{key}: {why}"))?;
        for unique in history.operations.iter().filter_map(|it| it.unique) {
            if *keys.entry(unique).or_insert(key) != key {
                return Err(format!("unique {unique} was given for two keys"));
            }
        }
    }
    let flushes = histories.iter().flat_map(|history| &history.operations);
    let flushes: BTreeSet<(u64, u64)> = flushes
        .filter(|it| matches!(it.asked, Asked::FlushAll(..=0)) && it.answer.is_some())
        .map(|flush| (flush.call, flush.end))
        .collect();
    flushes.into_iter().try_for_each(|flush| is_one_moment(flush, &histories))
}

/// A flush has not been one moment if it must have come before one operation, and after
/// another that began when that one was over.
fn is_one_moment((call, end): (u64, u64), histories: &[History]) -> Result<(), String> {
    let (mut after, mut before) = (Vec::new(), Vec::new());
    for (key, History { operations, .. }) in histories.iter().enumerate() {
        let flush = operations.iter().position(|it| (it.call, it.end) == (call, end));
        let Some(flush) = flush else { continue };
        for (index, other) in operations.iter().enumerate() {
            let overlaps = other.call < end && call < other.end && index != flush;
            if overlaps && other.answer.is_some() {
                if !histories[key].can_be(index, flush) {
                    after.push((key, other));
                } else if !histories[key].can_be(flush, index) {
                    before.push((key, other));
                }
            }
        }
    }
    for (key, first) in &after {
        if let Some((other, second)) = before.iter().find(|(_, it)| first.precedes(it))
        {
            return Err(format!(
                "A flush from {call} to {end} comes before this, of key k{key}:\n  \
                 {first}\nand after this, of key k{other}, which is later:\n  {second}"
            ));
        }
    }
    Ok(())
}

/// What was asked of one key.
struct History {
    /// In the order of the calls.
    operations: Vec<Operation>,
    /// The calls and ends, each with the place of its operation.
    moments: Vec<(u64, usize)>,
    /// What was possible when no operation was open, and before which of the moments.
    quiet: Vec<(usize, HashSet<Pair>)>,
}

impl History {
    fn new(mut operations: Vec<Operation>) -> History {
        operations.sort_by_key(|operation| operation.call);
        let mut moments = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            moments.push((operation.call, index));
            moments.push((operation.end, index));
        }
        moments.sort_unstable();
        History { operations, moments, quiet: Vec::new() }
    }

    fn explain(&mut self) -> Result<(), String> {
        let values = values_by_unique(&self.operations)?;
        let nothing = State { value: None, expires: NEVER, flush: NEVER };
        let pairs = HashSet::from([(nothing, 0)]);
        let mut quiet = Vec::new();
        let explained = self.go(0, pairs, &values, None, |at, pairs| {
            quiet.push((at, pairs.clone()));
            false
        });
        if let Err(index) = explained {
            let first = |at: usize| self.moments[at].1;
            let has_context = |(at, _): &&(usize, _)| first(*at) + CONTEXT <= index;
            let from = quiet.iter().rev().find(has_context).unwrap_or(&quiet[0]);
            return Err(unexplained((first(from.0), &from.1), index, &self.operations));
        }
        self.quiet = quiet;
        Ok(())
    }

    /// Whether there is an explanation in which one operation comes before another. Both
    /// have an answer, and without that there is one.
    fn can_be(&self, first: usize, then: usize) -> bool {
        let values = values_by_unique(&self.operations).expect("it was explained");
        let order = Some((&self.operations[first], &self.operations[then]));
        let call = self.operations[first.min(then)].call;
        let end = self.operations[first].end.max(self.operations[then].end);
        let is_before = |(at, _): &&(usize, _)| self.moments[*at].0 <= call;
        let (at, pairs) = self.quiet.iter().rev().find(is_before).expect("the first");
        // From where all is possible again that was, there is an explanation.
        let is_as_before = |at: usize, pairs: &HashSet<Pair>| {
            let known = self.quiet.binary_search_by_key(&at, |(at, _)| *at);
            self.moments[at].0 > end && known.is_ok_and(|it| self.quiet[it].1 == *pairs)
        };
        self.go(*at, pairs.clone(), &values, order, is_as_before).is_ok()
    }

    /// Goes through the moments from one on. The error is the operation that has no
    /// explanation. Calls `quiet` where none is open, which may say that this will do.
    fn go(
        &self,
        from: usize,
        mut pairs: HashSet<Pair>,
        values: &HashMap<u64, &str>,
        order: Option<(&Operation, &Operation)>,
        mut quiet: impl FnMut(usize, &HashSet<Pair>) -> bool,
    ) -> Result<(), usize> {
        let mut open: Vec<&Operation> = Vec::new();
        for (at, &(moment, index)) in self.moments.iter().enumerate().skip(from) {
            let operation = &self.operations[index];
            if moment == operation.call {
                if open.is_empty() && quiet(at, &pairs) {
                    return Ok(());
                }
                open.push(operation);
                continue;
            }
            pairs = place(operation, &open, &pairs, values, order);
            if pairs.is_empty() {
                return Err(index);
            }
            open.retain(|other| other.client != operation.client);
        }
        Ok(())
    }
}

/// Ends an operation: all pairs in which it has been done. Other open ones may have been
/// done before it, in any order that explains their answers, and in which the first of
/// `order` comes before the second.
fn place(
    operation: &Operation,
    open: &[&Operation],
    pairs: &HashSet<Pair>,
    values: &HashMap<u64, &str>,
    order: Option<(&Operation, &Operation)>,
) -> HashSet<Pair> {
    let mut placed = HashSet::new();
    let mut seen = HashSet::new();
    let mut untried: Vec<Pair> = pairs.iter().cloned().collect();
    let has_to_wait = |it: &Operation, done: u64| {
        order.is_some_and(|(first, then)| {
            let is_done = match open.iter().any(|open| ptr::eq(*open, first)) {
                true => done & first.bit() != 0,
                false => first.end < operation.end,
            };
            ptr::eq(it, then) && !is_done
        })
    };
    while let Some((state, mut done)) = untried.pop() {
        let mut next = Vec::new();
        let before = done;
        for other in open.iter().filter(|other| before & other.bit() == 0) {
            if has_to_wait(other, before) {
                continue;
            }
            let states = step(&state, other, values);
            if states.contains(&state) && other.only_looks() {
                // Where its answer is right it may as well be done at once.
                done |= other.bit();
            } else {
                next.extend(states.into_iter().map(|state| (state, other.bit())));
            }
        }
        if done & operation.bit() != 0 {
            placed.insert((state, done & !operation.bit()));
        } else if done != before {
            // Somebody may have waited for one that was done at once.
            untried.push((state, done));
        } else if seen.insert((state, done)) {
            untried.extend(next.into_iter().map(|(state, bit)| (state, done | bit)));
        }
    }
    if operation.answer.is_none() {
        // Or it never was.
        let without = pairs.iter().filter(|(_, done)| done & operation.bit() == 0);
        placed.extend(without.cloned());
    }
    placed
}

/// The states after an operation; none if its answer would have been another.
fn step(
    state: &State,
    operation: &Operation,
    values: &HashMap<u64, &str>,
) -> Vec<State> {
    let is_told = |reply: &str| {
        operation.answer.as_ref().is_none_or(|it| it == reply || it == SILENT)
    };
    let ways = state.at(operation.clock).into_iter();
    let done = ways.map(|state| perform(state, operation, values));
    done.filter(|(reply, _)| is_told(reply)).map(|(_, state)| state).collect()
}

/// The register: what is answered, and the state after it.
fn perform(
    state: State,
    operation: &Operation,
    values: &HashMap<u64, &str>,
) -> (String, State) {
    let deadline = |exptime: &i64| operation.deadline(*exptime);
    let (answer, next) = match (&operation.asked, state.value.as_deref()) {
        (Asked::Get | Asked::Gets, Some(value)) => return (hit(value), state),
        (Asked::Gat(exptime), Some(value)) => {
            return (hit(value), state.with(value.to_owned(), deadline(exptime)));
        }
        (Asked::Get | Asked::Gets | Asked::Gat(_), None) => ("END", state),
        (Asked::Touch(exptime), Some(value)) => {
            ("TOUCHED", state.with(value.to_owned(), deadline(exptime)))
        }
        (Asked::Set(new, exptime), _) | (Asked::Add(new, exptime), None) => {
            ("STORED", state.with(new.clone(), deadline(exptime)))
        }
        (Asked::Append(more), Some(old)) => {
            ("STORED", state.with(format!("{old}{more}"), state.expires))
        }
        (Asked::Add(..), Some(_)) | (Asked::Append(_), None) => ("NOT_STORED", state),
        (Asked::Cas(new, unique, exptime), Some(old))
            if values.get(unique) == Some(&old) =>
        {
            ("STORED", state.with(new.clone(), deadline(exptime)))
        }
        (Asked::Cas(..), Some(_)) => ("EXISTS", state),
        (Asked::Incr(delta), Some(old)) => match old.parse::<u64>() {
            Ok(number) => {
                let sum = (number + delta).to_string();
                return (sum.clone(), state.with(sum, state.expires));
            }
            Err(_) => (NOT_NUMERIC, state),
        },
        (Asked::Delete, Some(_)) => ("DELETED", state.emptied()),
        (Asked::Cas(..) | Asked::Incr(_) | Asked::Delete | Asked::Touch(_), None) => {
            ("NOT_FOUND", state)
        }
        (Asked::FlushAll(..=0), _) => ("OK", State { flush: NEVER, ..state.emptied() }),
        (Asked::FlushAll(delay), _) => {
            ("OK", State { flush: deadline(delay), ..state })
        }
    };
    (answer.to_owned(), next)
}

const NOT_NUMERIC: &str =
    "CLIENT_ERROR cannot increment or decrement non-numeric value";

/// The answer to a get that finds `value`.
pub fn hit(value: &str) -> String {
    format!("VALUE {value}")
}

/// Which value has which unique. One that two values had, or a value with two of them,
/// is an error: no order can explain it.
fn values_by_unique(history: &[Operation]) -> Result<HashMap<u64, &str>, String> {
    let (mut values, mut uniques) = (HashMap::new(), HashMap::new());
    for operation in history {
        let Some(unique) = operation.unique else { continue };
        let answer = operation.answer.as_deref().unwrap_or_default();
        let value = answer.strip_prefix("VALUE ").unwrap_or_default();
        if *values.entry(unique).or_insert(value) != value {
            return Err(format!("unique {unique} has two values: {operation}"));
        }
        if *uniques.entry(value).or_insert(unique) != unique {
            return Err(format!("a value has two uniques: {operation}"));
        }
    }
    Ok(values)
}

/// Shows what was possible at a moment when nothing was open, and what was asked from
/// there on, up to the operation that no order explains.
fn unexplained(
    (first, pairs): (usize, &HashSet<Pair>),
    index: usize,
    history: &[Operation],
) -> String {
    let states: BTreeSet<&str> = pairs
        .iter()
        .map(|(state, _)| state.value.as_deref().unwrap_or("nothing"))
        .collect();
    let states = Vec::from_iter(states).join(", or ");
    let mut text = format!("At first there was {states}. Then:\n");
    let end = history[index].end;
    for (number, operation) in history.iter().enumerate().skip(first) {
        if operation.call < end {
            let mark = if number == index { '>' } else { ' ' };
            let _ = writeln!(text, "{mark} {operation}");
        }
    }
    text + "In no order are all these answers right, up to that of the line with a mark."
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Operation { client, call, end, asked, answer, unique, clock } = self;
        let answer = answer.as_deref().unwrap_or("no answer, killed");
        let unique = unique.map_or(String::new(), |unique| format!(" {unique}"));
        let asked = asked.to_string();
        write!(
            f,
            "{call:>6} to {end:>6}  client {client}  {asked:<30}  {answer}{unique}"
        )?;
        write!(f, "  at {} to {}", clock.0, clock.1)
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Asked::Get => write!(f, "get"),
            Asked::Gets => write!(f, "gets"),
            Asked::Gat(exptime) => write!(f, "gat {exptime}"),
            Asked::Touch(exptime) => write!(f, "touch {exptime}"),
            Asked::Set(value, 0) => write!(f, "set {value}"),
            Asked::Set(value, exptime) => write!(f, "set {value} for {exptime}"),
            Asked::Add(value, 0) => write!(f, "add {value}"),
            Asked::Add(value, exptime) => write!(f, "add {value} for {exptime}"),
            Asked::Append(value) => write!(f, "append {value}"),
            Asked::Cas(value, unique, 0) => write!(f, "cas {value} {unique}"),
            Asked::Cas(value, unique, exptime) => {
                write!(f, "cas {value} {unique} for {exptime}")
            }
            Asked::Incr(delta) => write!(f, "incr {delta}"),
            Asked::Delete => write!(f, "delete"),
            Asked::FlushAll(delay) => write!(f, "flush_all {delay}"),
        }
    }
}
