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
//! A test that makes a history ensures that a client has one operation under way, that no
//! value is stored twice, and that a `cas` uses a unique that a `gets` has shown: so a
//! unique stands for a value. Answers are in the protocol's words, a hit as `VALUE` and
//! the value.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::{self, Write as _};

/// What a client asks of a key.
#[derive(Clone, Debug)]
pub enum Asked {
    Get,
    Gets,
    Set(String),
    Add(String),
    Append(String),
    Cas(String, u64),
    Incr(u64),
    Delete,
    /// Asked of all keys, which is to say of each.
    FlushAll,
}

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
}

impl Operation {
    fn bit(&self) -> u64 {
        1 << self.client
    }

    /// Whether it changes nothing, whenever it takes effect.
    fn only_looks(&self) -> bool {
        matches!(self.asked, Asked::Get | Asked::Gets)
            || matches!(
                self.answer.as_deref(),
                Some("NOT_STORED" | "NOT_FOUND" | "EXISTS")
            )
    }
}

/// The value, `None` if there is none.
type State = Option<String>;

/// A way things may stand: the state, and whose open operations are done in it, a bit
/// for each client.
type Pair = (State, u64);

/// Of the operations before the one that can't be explained, so many are shown.
const CONTEXT: usize = 8;

/// Whether an order of `history` explains all its answers, beginning with no value. The
/// error shows the part that has no explanation.
pub fn check(mut history: Vec<Operation>) -> Result<(), String> {
    history.sort_by_key(|operation| operation.call);
    let values = values_by_unique(&history)?;
    let mut moments = Vec::new();
    for (index, operation) in history.iter().enumerate() {
        moments.push((operation.call, index));
        moments.push((operation.end, index));
    }
    moments.sort_unstable();
    let mut open: Vec<&Operation> = Vec::new();
    let mut pairs = HashSet::from([(None, 0)]);
    // What was possible when no operation was open: before which one.
    let mut quiet = Vec::new();
    for (moment, index) in moments {
        let operation = &history[index];
        if moment == operation.call {
            if open.is_empty() {
                quiet.push((index, pairs.clone()));
            }
            open.push(operation);
            continue;
        }
        pairs = place(operation, &open, &pairs, &values);
        if pairs.is_empty() {
            let has_context = |(first, _): &&(usize, _)| first + CONTEXT <= index;
            let from = quiet.iter().rev().find(has_context).unwrap_or(&quiet[0]);
            return Err(unexplained(from, index, &history));
        }
        open.retain(|other| other.client != operation.client);
    }
    Ok(())
}

/// Ends an operation: all pairs in which it has been done. Other open ones may have been
/// done before it, in any order that explains their answers.
fn place(
    operation: &Operation,
    open: &[&Operation],
    pairs: &HashSet<Pair>,
    values: &HashMap<u64, &str>,
) -> HashSet<Pair> {
    let mut placed = HashSet::new();
    let mut seen = HashSet::new();
    let mut untried: Vec<Pair> = pairs.iter().cloned().collect();
    while let Some((state, mut done)) = untried.pop() {
        let mut next = Vec::new();
        let before = done;
        for other in open.iter().filter(|other| before & other.bit() == 0) {
            match step(&state, other, values) {
                // Where its answer is right it may as well be done at once.
                Some(_) if other.only_looks() => done |= other.bit(),
                Some(state) => next.push((state, other.bit())),
                None => {}
            }
        }
        if done & operation.bit() != 0 {
            placed.insert((state, done & !operation.bit()));
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

/// The state after an operation; `None` if its answer would have been another.
fn step(
    state: &State,
    operation: &Operation,
    values: &HashMap<u64, &str>,
) -> Option<State> {
    let (reply, next) = perform(state, &operation.asked, values);
    operation.answer.as_ref().is_none_or(|answer| *answer == reply).then_some(next)
}

/// The register: what is answered, and the state after it.
fn perform(
    state: &State,
    asked: &Asked,
    values: &HashMap<u64, &str>,
) -> (String, State) {
    let same = || state.clone();
    let (answer, next) = match (asked, state.as_deref()) {
        (Asked::Get | Asked::Gets, Some(value)) => return (hit(value), same()),
        (Asked::Get | Asked::Gets, None) => ("END", None),
        (Asked::Set(new), _) => ("STORED", Some(new.clone())),
        (Asked::Add(new), None) => ("STORED", Some(new.clone())),
        (Asked::Add(_), Some(_)) => ("NOT_STORED", same()),
        (Asked::Append(more), Some(old)) => ("STORED", Some(format!("{old}{more}"))),
        (Asked::Append(_), None) => ("NOT_STORED", None),
        (Asked::Cas(new, unique), Some(old)) if values.get(unique) == Some(&old) => {
            ("STORED", Some(new.clone()))
        }
        (Asked::Cas(..), Some(_)) => ("EXISTS", same()),
        (Asked::Incr(delta), Some(old)) => match old.parse::<u64>() {
            Ok(number) => {
                let sum = (number + delta).to_string();
                return (sum.clone(), Some(sum));
            }
            Err(_) => (NOT_NUMERIC, same()),
        },
        (Asked::Delete, Some(_)) => ("DELETED", None),
        (Asked::Cas(..) | Asked::Incr(_) | Asked::Delete, None) => ("NOT_FOUND", None),
        (Asked::FlushAll, _) => ("OK", None),
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
    (first, pairs): &(usize, HashSet<Pair>),
    index: usize,
    history: &[Operation],
) -> String {
    let states: BTreeSet<&str> =
        pairs.iter().map(|(state, _)| state.as_deref().unwrap_or("nothing")).collect();
    let states = Vec::from_iter(states).join(", or ");
    let mut text = format!("At first there was {states}. Then:\n");
    let end = history[index].end;
    for (number, operation) in history.iter().enumerate().skip(*first) {
        if operation.call < end {
            let mark = if number == index { '>' } else { ' ' };
            let _ = writeln!(text, "{mark} {operation}");
        }
    }
    text + "In no order are all these answers right, up to that of the line with a mark."
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Operation { client, call, end, asked, answer, unique } = self;
        let answer = answer.as_deref().unwrap_or("no answer, killed");
        let unique = unique.map_or(String::new(), |unique| format!(" {unique}"));
        let asked = asked.to_string();
        write!(
            f,
            "{call:>6} to {end:>6}  client {client}  {asked:<30}  {answer}{unique}"
        )
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Asked::Get => write!(f, "get"),
            Asked::Gets => write!(f, "gets"),
            Asked::Set(value) => write!(f, "set {value}"),
            Asked::Add(value) => write!(f, "add {value}"),
            Asked::Append(value) => write!(f, "append {value}"),
            Asked::Cas(value, unique) => write!(f, "cas {value} {unique}"),
            Asked::Incr(delta) => write!(f, "incr {delta}"),
            Asked::Delete => write!(f, "delete"),
            Asked::FlushAll => write!(f, "flush_all"),
        }
    }
}
