//! The checker of histories, `common::linear`, on histories whose verdict is known.

mod common;

use common::linear::{Asked, Operation, SILENT, check, check_all, hit};
use memcached_lite::driver::random::Random;

/// What the clock shows, where it does not matter.
const NOON: (u64, u64) = (43_200, 43_200);

/// An operation that was answered.
fn told(call: u64, end: u64, asked: Asked, answer: &str) -> Operation {
    let answer = Some(answer.to_owned());
    Operation { client: 0, call, end, asked, answer, unique: None, clock: NOON }
}

/// An operation that a kill has cut off.
fn cut(call: u64, end: u64, asked: Asked) -> Operation {
    Operation { answer: None, ..told(call, end, asked, "") }
}

/// A `gets` that found something.
fn shown(call: u64, end: u64, value: &str, unique: u64) -> Operation {
    Operation { unique: Some(unique), ..told(call, end, Asked::Gets, &hit(value)) }
}

fn got(call: u64, end: u64, value: &str) -> Operation {
    told(call, end, Asked::Get, &hit(value))
}

fn missed(call: u64, end: u64) -> Operation {
    told(call, end, Asked::Get, "END")
}

fn set(value: &str) -> Asked {
    Asked::Set(value.to_owned(), 0)
}

fn add(value: &str) -> Asked {
    Asked::Add(value.to_owned(), 0)
}

fn append(value: &str) -> Asked {
    Asked::Append(value.to_owned())
}

fn cas(value: &str, unique: u64) -> Asked {
    Asked::Cas(value.to_owned(), unique, 0)
}

#[track_caller]
fn good(history: &[Operation]) {
    assert_eq!(check(with_clients(history)), Ok(()));
}

#[track_caller]
fn bad(history: &[Operation]) -> String {
    check(with_clients(history)).expect_err("an order was found where there is none")
}

/// Makes them operations of 60 clients in turn.
fn with_clients(history: &[Operation]) -> Vec<Operation> {
    let clients = (0..60).cycle();
    let operations = history.iter().cloned().zip(clients);
    operations.map(|(operation, client)| Operation { client, ..operation }).collect()
}

#[test]
fn every_answer_of_a_register_is_right() {
    good(&[
        missed(0, 1),
        told(2, 3, append("x"), "NOT_STORED"),
        told(4, 5, Asked::Delete, "NOT_FOUND"),
        told(6, 7, add("a"), "STORED"),
        told(8, 9, add("b"), "NOT_STORED"),
        told(10, 11, append("c"), "STORED"),
        shown(12, 13, "ac", 70),
        told(14, 15, cas("d", 70), "STORED"),
        told(16, 17, cas("e", 70), "EXISTS"),
        told(18, 19, Asked::Incr(1), NOT_NUMERIC),
        told(20, 21, set("9"), "STORED"),
        told(22, 23, Asked::Incr(2), "11"),
        told(24, 25, Asked::Delete, "DELETED"),
        told(26, 27, Asked::Incr(2), "NOT_FOUND"),
        told(28, 29, cas("f", 70), "NOT_FOUND"),
        told(30, 31, set("g"), "STORED"),
        told(32, 33, Asked::FlushAll(0), "OK"),
        missed(34, 35),
    ]);
}

const NOT_NUMERIC: &str =
    "CLIENT_ERROR cannot increment or decrement non-numeric value";

#[test]
fn every_wrong_answer_of_a_register_is_noticed() {
    let with_a = |asked: Asked, answer: &str| {
        bad(&[told(0, 1, set("a"), "STORED"), told(2, 3, asked, answer)]);
    };
    with_a(Asked::Get, "END");
    with_a(add("b"), "STORED");
    with_a(append("b"), "NOT_STORED");
    with_a(Asked::Delete, "NOT_FOUND");
    with_a(Asked::Incr(1), "1");
    with_a(cas("b", 70), "STORED");
    with_a(Asked::Get, "SERVER_ERROR out of order");
    let without = |asked: Asked, answer: &str| {
        bad(&[told(0, 1, asked, answer)]);
    };
    without(add("b"), "NOT_STORED");
    without(append("b"), "STORED");
    without(Asked::Delete, "DELETED");
    without(Asked::Incr(1), "1");
    without(cas("b", 70), "EXISTS");
}

#[test]
fn operations_at_the_same_time_have_any_order() {
    let sets = [told(0, 10, set("a"), "STORED"), told(1, 11, set("b"), "STORED")];
    for (value, other) in [("a", "b"), ("b", "a")] {
        good(&[sets[0].clone(), sets[1].clone(), got(12, 13, value)]);
        // A client that reads while both are under way may see one and then the other ...
        let reads = [got(2, 3, other), got(4, 5, value), got(12, 13, value)];
        good(&[&sets[..], &reads].concat());
        // ... but not the first once more.
        let reads = [got(2, 3, other), got(4, 5, value), got(12, 13, other)];
        bad(&[&sets[..], &reads].concat());
    }
}

#[test]
fn a_read_may_show_a_write_that_has_no_answer_yet() {
    good(&[told(0, 9, set("a"), "STORED"), got(1, 2, "a")]);
    // From then on it is written for everybody.
    bad(&[told(0, 9, set("a"), "STORED"), got(1, 2, "a"), missed(3, 4)]);
}

#[test]
fn what_would_change_nothing_yet_may_be_done_later() {
    good(&[
        told(0, 9, Asked::FlushAll(0), "OK"),
        told(1, 2, set("a"), "STORED"),
        got(3, 4, "a"),
        missed(5, 6),
    ]);
}

#[test]
fn a_stale_read_after_an_acknowledged_write_is_bad() {
    let why = bad(&[
        told(0, 1, set("old"), "STORED"),
        told(2, 3, set("new"), "STORED"),
        got(4, 5, "old"),
    ]);
    assert!(why.contains(">      4 to      5  client 2  get"), "{why}");
}

#[test]
fn a_lost_acknowledged_write_is_bad() {
    bad(&[told(0, 1, set("a"), "STORED"), cut(2, 9, Asked::Get), missed(10, 11)]);
}

#[test]
fn a_value_that_comes_back_after_an_acknowledged_delete_is_bad() {
    for delete in [Asked::Delete, Asked::FlushAll(0)] {
        let answer = if matches!(delete, Asked::Delete) { "DELETED" } else { "OK" };
        bad(&[
            told(0, 1, set("a"), "STORED"),
            told(2, 3, delete, answer),
            got(10, 11, "a"),
        ]);
    }
}

#[test]
fn a_write_cut_off_by_a_kill_has_happened_or_not() {
    let cut_off = [told(0, 1, set("a"), "STORED"), cut(2, 9, set("b"))];
    good(&[&cut_off[..], &[got(10, 11, "a")]].concat());
    good(&[&cut_off[..], &[got(10, 11, "b")]].concat());
    bad(&[&cut_off[..], &[missed(10, 11)]].concat());
}

#[test]
fn a_write_cut_off_by_a_kill_does_not_happen_after_it() {
    bad(&[cut(0, 5, set("a")), missed(6, 7), got(8, 9, "a")]);
    good(&[cut(0, 8, set("a")), missed(6, 7), got(9, 10, "a")]);
}

#[test]
fn a_read_that_saw_what_a_kill_took_back_is_bad() {
    bad(&[cut(0, 5, set("a")), got(1, 2, "a"), missed(6, 7)]);
    bad(&[
        told(0, 1, set("a"), "STORED"),
        cut(2, 7, Asked::Delete),
        missed(3, 4),
        got(8, 9, "a"),
    ]);
}

#[test]
fn cut_off_writes_may_have_happened_in_any_order_and_number() {
    let cut_off = [
        told(0, 1, set("a"), "STORED"),
        cut(2, 9, append("b")),
        cut(3, 9, append("c")),
    ];
    for value in ["a", "ab", "ac", "abc", "acb"] {
        good(&[&cut_off[..], &[got(10, 11, value)]].concat());
    }
    for value in ["b", "abb", "abcb"] {
        bad(&[&cut_off[..], &[got(10, 11, value)]].concat());
    }
}

#[test]
fn two_cas_that_win_on_one_unique_are_bad() {
    let history = [
        told(0, 1, set("a"), "STORED"),
        shown(2, 3, "a", 70),
        told(4, 8, cas("b", 70), "STORED"),
        told(5, 9, cas("c", 70), "STORED"),
    ];
    good(&history[..3]);
    bad(&history);
}

#[test]
fn a_unique_for_two_values_or_two_for_one_is_bad() {
    let sets = [told(0, 1, set("a"), "STORED"), told(3, 4, set("b"), "STORED")];
    good(&[&sets[..], &[shown(2, 3, "a", 70), shown(5, 6, "b", 71)]].concat());
    bad(&[&sets[..], &[shown(2, 3, "a", 70), shown(5, 6, "b", 70)]].concat());
    bad(&[&sets[..], &[shown(5, 6, "b", 70), shown(7, 8, "b", 71)]].concat());
}

#[test]
fn two_increments_that_make_the_same_number_are_bad() {
    bad(&[
        told(0, 1, set("5"), "STORED"),
        told(2, 8, Asked::Incr(1), "6"),
        told(3, 9, Asked::Incr(1), "6"),
    ]);
}

#[test]
fn a_value_from_nowhere_is_bad() {
    bad(&[told(0, 9, set("a"), "STORED"), got(1, 8, "b")]);
}

#[test]
fn what_has_no_explanation_is_shown_and_little_else() {
    let mut history: Vec<Operation> = (0..100)
        .map(|i| told(2 * i, 2 * i + 1, set(&i.to_string()), "STORED"))
        .collect();
    history.push(got(300, 301, "98"));
    let why = bad(&history);
    assert!(why.starts_with("At first there was 91. Then:\n"), "{why}");
    assert_eq!(why.lines().count(), 11, "{why}");
    assert!(why.contains("\n>    300 to    301  client 40  get "), "{why}");
}

/// A register that does one operation at each moment, as a right server does. Eight
/// clients never rest.
#[test]
fn a_long_history_is_judged_and_one_lie_in_it_found() {
    let mut random = Random::new(1);
    let mut history: Vec<Operation> = Vec::new();
    let mut value = None::<String>;
    let mut rested = [0; 8];
    for moment in (10..10_000).step_by(10) {
        let client = random.below(8);
        let (asked, answer) = match random.below(3) {
            0 => (set(&moment.to_string()), "STORED".to_owned()),
            1 if value.is_some() => (Asked::Delete, "DELETED".to_owned()),
            _ => (Asked::Get, value.as_deref().map_or("END".to_owned(), hit)),
        };
        match &asked {
            Asked::Set(new, _) => value = Some(new.clone()),
            Asked::Delete => value = None,
            _ => {}
        }
        let (call, end) = (rested[client], moment + random.below(9) as u64);
        rested[client] = end + 1;
        history.push(Operation { client, ..told(call, end, asked, &answer) });
    }
    assert_eq!(check(history.clone()), Ok(()));
    // A client is shown a value that was replaced long before.
    let gets = |operation: &&mut Operation| matches!(operation.asked, Asked::Get);
    history.iter_mut().rev().find(gets).expect("a get").answer = Some(hit("70"));
    check(history).expect_err("a lie");
}

/// What the clock shows at an operation.
fn at(clock: (u64, u64), operation: Operation) -> Operation {
    Operation { clock, ..operation }
}

fn set_for(value: &str, exptime: i64) -> Asked {
    Asked::Set(value.to_owned(), exptime)
}

#[test]
fn an_item_expires_at_its_second_and_not_before() {
    let set = at((100, 101), told(0, 1, set_for("a", 10), "STORED"));
    // It may have been set at 100 or at 101.
    good(&[set.clone(), at((109, 109), got(2, 3, "a"))]);
    bad(&[set.clone(), at((109, 109), missed(2, 3))]);
    good(&[set.clone(), at((110, 110), got(2, 3, "a"))]);
    good(&[set.clone(), at((110, 110), missed(2, 3))]);
    bad(&[set.clone(), at((111, 111), got(2, 3, "a"))]);
    good(&[set, at((111, 111), missed(2, 3))]);
}

#[test]
fn what_has_expired_for_one_client_has_for_those_that_come_later() {
    let set = at((100, 101), told(0, 1, set_for("a", 10), "STORED"));
    let (hit, miss) = (got(4, 5, "a"), missed(2, 3));
    bad(&[set.clone(), at((110, 110), miss), at((110, 110), hit)]);
    let (hit, miss) = (got(2, 3, "a"), missed(4, 5));
    good(&[set, at((110, 110), hit), at((110, 111), miss)]);
}

#[test]
fn a_touch_moves_the_deadline_and_keeps_the_unique() {
    let set = at((100, 100), told(0, 1, set_for("a", 10), "STORED"));
    let seen = at((100, 100), shown(2, 3, "a", 70));
    for touch in [
        told(4, 5, Asked::Touch(50), "TOUCHED"),
        Operation { unique: Some(70), ..told(4, 5, Asked::Gat(50), &hit("a")) },
    ] {
        let touched = [set.clone(), seen.clone(), at((105, 105), touch)];
        good(&[&touched[..], &[at((140, 140), shown(6, 7, "a", 70))]].concat());
        bad(&[&touched[..], &[at((140, 140), shown(6, 7, "a", 71))]].concat());
        bad(&[&touched[..], &[at((140, 140), missed(6, 7))]].concat());
        bad(&[&touched[..], &[at((155, 155), got(6, 7, "a"))]].concat());
    }
    bad(&[told(0, 1, Asked::Touch(5), "TOUCHED")]);
    bad(&[told(0, 1, Asked::Gat(5), &hit("a"))]);
}

#[test]
fn a_flush_with_a_delay_removes_what_is_there_when_it_is_due() {
    let flush = at((100, 100), told(2, 3, Asked::FlushAll(10), "OK"));
    let old = [told(0, 1, set("a"), "STORED"), flush];
    good(&[&old[..], &[at((109, 109), got(4, 5, "a"))]].concat());
    bad(&[&old[..], &[at((109, 109), missed(4, 5))]].concat());
    bad(&[&old[..], &[at((110, 110), got(4, 5, "a"))]].concat());
    // Another takes its place.
    let other = at((105, 105), told(4, 5, Asked::FlushAll(100), "OK"));
    good(&[&old[..], &[other, at((150, 150), got(6, 7, "a"))]].concat());
    // What was stored before it was due is removed, and what was stored later is not.
    let new = |second| at((second, second), told(4, 5, set("b"), "STORED"));
    bad(&[&old[..], &[new(109), at((150, 150), got(6, 7, "b"))]].concat());
    good(&[&old[..], &[new(111), at((150, 150), got(6, 7, "b"))]].concat());
}

#[test]
fn what_wanted_no_answer_is_done_before_a_later_answer() {
    let silent = told(2, 3, Asked::Delete, SILENT);
    let old = [told(0, 1, set("a"), "STORED"), silent];
    good(&[&old[..], &[missed(4, 5)]].concat());
    bad(&[&old[..], &[got(4, 5, "a")]].concat());
}

/// Histories of two keys, on which others work while client 9 flushes.
fn flushed(first: &[Operation], second: &[Operation]) -> Result<(), String> {
    let flush = Operation { client: 9, ..told(10, 40, Asked::FlushAll(0), "OK") };
    let with = |history: &[Operation]| [history, std::slice::from_ref(&flush)].concat();
    check_all(vec![with(first), with(second)])
}

#[test]
fn a_flush_is_one_moment_for_all_keys() {
    let old = [told(0, 1, set("a"), "STORED"), told(2, 3, set("b"), "STORED")];
    // One get of both keys shows the first as gone and the second as still there.
    let history = |reads: [Operation; 2]| {
        let [first, second] = reads;
        flushed(&[old[0].clone(), first], &[old[1].clone(), second])
    };
    history([missed(20, 21), got(20, 22, "b")]).expect_err("two moments");
    assert_eq!(history([got(20, 21, "a"), missed(20, 22)]), Ok(()));
    assert_eq!(history([missed(20, 21), missed(20, 22)]), Ok(()));
    // Two gets at the same time, of different clients, have any order.
    let other = Operation { client: 3, ..got(19, 22, "b") };
    assert_eq!(history([missed(20, 21), other]), Ok(()));
    // A value is set after the flush, and one that is set later is flushed.
    let survivor = [told(20, 21, set("c"), "STORED"), got(50, 51, "c")];
    let lost = [told(23, 24, set("d"), "STORED"), missed(52, 53)];
    flushed(&survivor, &lost).expect_err("two moments");
    assert_eq!(flushed(&lost, &survivor[..1]), Ok(()));
}

#[test]
fn a_unique_of_two_keys_is_bad() {
    let history = |value| vec![told(0, 1, set(value), "STORED"), shown(2, 3, value, 7)];
    check_all(vec![history("a"), history("b")]).expect_err("one unique for two");
}
