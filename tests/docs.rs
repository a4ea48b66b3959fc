//! Keeps README.md and docs/*.md true: what they quote, run, count and promise is
//! looked up in the code, or done.
//!
//! | in a page | is checked |
//! |---|---|
//! | a fence `rust src/log.rs` | it occurs in that file, line for line |
//! | a fence `wire OPTIONS` | the dialogue is held with a server of these options |
//! | a fence `hexdump OPTIONS` | it is the file after the dialogue before it |
//! | a fence `console` | what stands behind `$` can be run |
//! | `` `make test` ``, `` `cargo run ...` `` | it can be run |
//! | `` `TAIL_LIMIT` (1048576 bytes) `` | the constant has that value |
//! | `` `--conn-limit` (1024) `` | the option has that default |
//! | `src/log.rs` with a number of lines, in the README | it has about so many |
//! | `` `a_test_that_says_so` ``, a name of five words or more | there is that test |
//! | `[text](page.md)`, `![text](picture.svg)` | the file is there |
//! | a page | it is short enough, and takes as many minutes as docs/README.md says |
//! | all chapters | a quarter of the code that a request passes is quoted |
//! | `**L2**` | its module, a place in the code, a test and an exercise say it, too |
//!
//! In a quote, a line of only `...` stands for any number of lines, and all lines may
//! be moved to the left by the same width. Of a constant that several modules have,
//! the page says whose it means: `compact::BATCH`. Fences of another kind are `text`,
//! or `rust,` with a word behind it, and not looked at.
//!
//! Each check fails when it finds nothing to check.

mod common;

use common::Server;
use memcached_lite::args::{Args, SERVER, Spec, specs};
use memcached_lite::client::commands::HELP as CLIENT;
use memcached_lite::driver::HELP as DRIVER;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// The chapters of the course, in the order of reading.
const CORE: [&str; 11] = [
    "docs/start.md",
    "docs/driver.md",
    "docs/designs.md",
    "docs/steps.md",
    "docs/protocol.md",
    "docs/file.md",
    "docs/store.md",
    "docs/recovery.md",
    "docs/server.md",
    "docs/meta.md",
    "docs/breaking.md",
];

/// And those that may be read or not.
const APPENDICES: [&str; 7] = [
    "docs/eviction.md",
    "docs/dialects.md",
    "docs/repair.md",
    "docs/backup.md",
    "docs/cluster.md",
    "docs/client.md",
    "docs/measuring.md",
];

/// All of these: they quote code, and have a dialogue.
fn chapters() -> impl Iterator<Item = &'static str> {
    CORE.into_iter().chain(APPENDICES)
}

/// The most words that a chapter may have, without what is quoted and the answers; and those
/// of the course together.
const MAX_WORDS: usize = 2500;
const MAX_CORE_WORDS: usize = 22_000;

/// How many words, and how many lines of code, are read in a minute.
const WORDS_A_MINUTE: usize = 200;
const LINES_A_MINUTE: usize = 8;

/// The most minutes that the chapters of the course may take together.
const MAX_MINUTES: usize = 6 * 60;

/// The rooms of src that a request passes, and the percentage of their code that the
/// chapters have to quote.
const ROOMS: [&str; 4] = ["store", "protocol", "server", "os"];
const MIN_SHARE: usize = 25;

#[test]
fn quoted_code_stands_in_its_file() {
    let pages = pages();
    let mut failures = Vec::new();
    let mut quoting = BTreeSet::new();
    for (page, fence) in fences(&pages) {
        let Some(path) = fence.info.strip_prefix("rust ") else { continue };
        quoting.insert(page.name.as_str());
        match fs::read_to_string(root().join(path)) {
            Ok(file) if quotes(&fence.text, &file) => {}
            Ok(_) => failures.push(format!("{}: not in {path}", fence.place(page))),
            Err(error) => failures.push(format!("{}: {error}", fence.place(page))),
        }
    }
    for chapter in chapters() {
        assert!(quoting.contains(chapter), "{chapter} quotes no code");
    }
    report(&failures);
}

#[test]
fn dialogues_are_what_a_server_says() {
    let pages = pages();
    let mut failures = Vec::new();
    let mut talking = BTreeSet::new();
    for (page, fence) in fences(&pages) {
        let Some(options) = fence.info.strip_prefix("wire") else { continue };
        talking.insert(page.name.as_str());
        let options: Vec<&str> = options.split_whitespace().collect();
        let server = Server::start(&options);
        let result = common::replay(server.addr, &fence.text, false);
        if let Err(problem) = result {
            failures.push(format!("{}: {problem}", fence.place(page)));
        }
    }
    for chapter in chapters() {
        assert!(talking.contains(chapter), "{chapter} has no dialogue");
    }
    report(&failures);
}

#[test]
fn hex_dumps_are_what_the_file_holds() {
    let pages = pages();
    let mut count = 0;
    for page in &pages {
        let mut dialogue = None;
        for fence in &page.fences {
            if fence.info.starts_with("wire") {
                dialogue = Some(&fence.text);
            }
            let Some(options) = fence.info.strip_prefix("hexdump") else { continue };
            count += 1;
            let options: Vec<&str> = options.split_whitespace().collect();
            let mut server = Server::start(&options);
            let text = dialogue.expect("a dialogue stands before the dump");
            converse(&server, text);
            server.kill();
            let file = fs::read(server.data().join("0000000001.kv")).expect("a file");
            let dump = hexdump(&file);
            let place = fence.place(page);
            assert!(dump == fence.text, "{place}: the file is\n\n{dump}");
        }
    }
    assert!(count > 0, "no page has a hex dump");
}

#[test]
fn commands_can_be_run() {
    let pages = pages();
    let mut failures = Vec::new();
    let mut count = 0;
    for (page, fence) in fences(&pages) {
        if fence.info != "console" {
            continue;
        }
        let before = count;
        for line in fence.text.lines() {
            let Some(line) = line.strip_prefix("$ ") else { continue };
            count += 1;
            if let Err(problem) = check_line(line) {
                failures.push(format!("{}: {problem} in {line:?}", fence.place(page)));
            }
        }
        if count == before {
            failures.push(format!("{}: no command", fence.place(page)));
        }
    }
    for page in &pages {
        let is_command = |span: &&str| {
            ["cargo ", "make ", "target/"].iter().any(|name| span.starts_with(name))
        };
        for span in page.code_spans().filter(is_command) {
            if let Err(problem) = check_line(&span.replace('\n', " ")) {
                failures.push(format!("{}: {problem} in {span:?}", page.name));
            }
        }
    }
    assert!(count > 0, "no page runs anything");
    report(&failures);
}

#[test]
fn numbers_are_those_of_the_code() {
    let constants = constants();
    let mut failures = Vec::new();
    let mut count = 0;
    for page in pages() {
        for (name, number) in page.numbers() {
            count += 1;
            let is = match name.strip_prefix("--") {
                Some(option) => default_of(option).map(BTreeSet::from_iter),
                None => constants.get(&name).cloned(),
            };
            let is = is.unwrap_or_default();
            if is.len() != 1 || !is.contains(&number) {
                let page = &page.name;
                failures
                    .push(format!("{page}: `{name}` ({number}), the code has {is:?}"));
            }
        }
    }
    assert!(count > 0, "no page names a number");
    report(&failures);
}

#[test]
fn options_that_are_named_exist() {
    // Or an exercise asks for it.
    let scripts = fs::read_dir(root().join("examples/exercises")).expect("scripts");
    let to_be_built: String = scripts
        .map(|it| fs::read_to_string(it.expect("entry").path()).expect("text"))
        .collect();
    let mut failures = Vec::new();
    let mut count = 0;
    for page in pages() {
        for span in page.code_spans() {
            let Some(name) = span.strip_prefix("--") else { continue };
            count += 1;
            let name = name.split(['=', ' ', '\n']).next().unwrap_or_default();
            let is_there = all_options().any(|spec| spec.long == name);
            if !is_there && !to_be_built.contains(&format!("# New: --{name}. ")) {
                failures.push(format!("{}: no option --{name}", page.name));
            }
        }
    }
    assert!(count > 0, "no page names an option");
    report(&failures);
}

#[test]
fn tests_that_are_named_exist() {
    let files: Vec<String> = ["src", "tests"]
        .into_iter()
        .flat_map(|directory| rust_files(&root().join(directory)))
        .map(|path| fs::read_to_string(path).expect("text"))
        .collect();
    let is_test = |name: &str| {
        let function = format!("fn {name}");
        files.iter().any(|text| {
            let mut found = text.split(&function).skip(1);
            found.any(|rest| rest.starts_with(['(', '<']))
        })
    };
    let mut failures = Vec::new();
    let mut count = 0;
    for page in &pages() {
        for span in page.code_spans() {
            let is_name = span.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
            if is_name && span.matches('_').count() >= 4 {
                count += 1;
                if !is_test(span) {
                    failures.push(format!("{}: there is no test {span}", page.name));
                }
            }
        }
    }
    assert!(count > 0, "no page names a test");
    report(&failures);
}

#[test]
fn links_lead_somewhere() {
    let mut failures = Vec::new();
    let mut linked = BTreeSet::new();
    for page in pages() {
        for link in page.links() {
            let (target, fragment) = link.split_once('#').unwrap_or((&link, ""));
            let is_line_number = fragment
                .strip_prefix('L')
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            if is_line_number {
                failures.push(format!("{}: {link} drifts with the code", page.name));
            }
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let directory = Path::new(&page.name).parent().unwrap_or(Path::new(""));
            let path = root().join(directory).join(target);
            match path.canonicalize() {
                Ok(path) if page.name == "docs/README.md" => {
                    linked.insert(path);
                }
                Ok(_) => {}
                Err(_) => failures.push(format!("{}: {link} is not there", page.name)),
            }
        }
    }
    for chapter in chapters() {
        let path = root().join(chapter).canonicalize().expect("a chapter");
        assert!(linked.contains(&path), "docs/README.md does not link {chapter}");
    }
    report(&failures);
}

#[test]
fn the_readme_counts_the_lines_as_they_are() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let (mut failures, mut count) = (Vec::new(), 0);
    for row in readme.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [_, files, lines, ..] = cells[..] else { continue };
        let Ok(said) = lines.replace(',', "").parse::<usize>() else { continue };
        count += 1;
        let paths = files.split('`').skip(1).step_by(2);
        let is: usize = paths.map(|path| lines_without_tests(&root().join(path))).sum();
        if is.abs_diff(said) > is / 20 + 10 {
            failures.push(format!("{files}: {said} lines, there are {is}"));
        }
    }
    assert!(count > 0, "the README counts no lines");
    report(&failures);
}

/// Of a file, or of all in a directory.
fn lines_without_tests(path: &Path) -> usize {
    if path.is_dir() {
        let entries = fs::read_dir(path).expect("a directory");
        return entries.map(|e| lines_without_tests(&e.expect("entry").path())).sum();
    }
    let text = fs::read_to_string(path).expect("text");
    text.lines().take_while(|line| *line != "#[cfg(test)]").count()
}

#[test]
fn a_chapter_is_read_in_one_sitting() {
    let is_chapter = |page: &&Page| chapters().any(|name| name == page.name);
    let pages = pages();
    let long = pages.iter().filter(is_chapter).filter(|it| it.words() > MAX_WORDS);
    let failures: Vec<_> =
        long.map(|page| format!("{}: {} words", page.name, page.words())).collect();
    report(&failures);
    let core = pages.iter().filter(|page| CORE.contains(&&page.name[..]));
    let words: usize = core.map(Page::words).sum();
    assert!(words <= MAX_CORE_WORDS, "the course has {words} words");
}

/// The tables of docs/README.md: how many minutes each page takes, and all of the course.
#[test]
fn the_minutes_are_those_of_the_pages() {
    let pages = pages();
    let text = fs::read_to_string(root().join("docs/README.md")).expect("text");
    let mut minutes = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with('|')) {
        let (Some((_, link)), Some(said)) =
            (row.split_once("]("), row.trim_end_matches([' ', '|']).rsplit(' ').next())
        else {
            continue;
        };
        let name = format!("docs/{}", link.split(')').next().unwrap_or_default());
        if let Ok(said) = said.parse::<usize>() {
            minutes.insert(name, said);
        }
    }
    let mut failures = Vec::new();
    for page in &pages {
        let (name, is) = (&page.name, page.minutes());
        match minutes.get(name) {
            // A word more or less changes no table.
            Some(said) if is.abs_diff(*said) <= 1 + is / 20 => {}
            None if ["README.md", "docs/README.md"].contains(&&name[..]) => {}
            said => failures.push(format!("{name}: {is} minutes, not {said:?}")),
        }
    }
    report(&failures);
    let core: usize = CORE.iter().map(|name| minutes[*name]).sum();
    assert!(core <= MAX_MINUTES, "{core} minutes");
    let (hours, rest) = (core / 60, core % 60);
    let total = format!("**{hours} hours and {rest} minutes**");
    assert!(text.contains(&total), "docs/README.md does not say {total}");
    // In the order of reading.
    let places = CORE.map(|name| {
        let link = format!("]({})", name.trim_start_matches("docs/"));
        text.find(&link).expect(name)
    });
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn a_quarter_of_what_a_request_passes_is_quoted() {
    let pages = pages();
    let mut quoted: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (page, fence) in fences(&pages) {
        let path =
            fence.info.strip_prefix("rust src/").filter(|_| page.name != "README.md");
        let Some(path) = path else { continue };
        let file = fs::read_to_string(root().join("src").join(path)).expect("a file");
        let lines = places(&fence.text, &file).unwrap_or_default();
        quoted.entry(path).or_default().extend(lines);
    }
    let (mut all, mut all_quoted) = (0, 0);
    for room in ROOMS {
        let (mut lines, mut of_them) = (0, 0);
        for path in rust_files(&root().join("src")) {
            let path = path.strip_prefix(root().join("src")).expect("below src");
            let name = path.to_str().expect("UTF-8");
            let first = name.split(['/', '.']).next();
            if first != Some(room) {
                continue;
            }
            let text = fs::read_to_string(root().join("src").join(path)).expect("text");
            let code = code_lines(&text);
            lines += code.len();
            of_them += quoted.get(name).map_or(0, |it| it.intersection(&code).count());
        }
        println!(
            "{room:10} {of_them:5} of {lines:5} lines: {}%",
            100 * of_them / lines
        );
        (all, all_quoted) = (all + lines, all_quoted + of_them);
    }
    println!(
        "{:10} {all_quoted:5} of {all:5} lines: {}%",
        "all",
        100 * all_quoted / all
    );
    assert!(
        100 * all_quoted >= MIN_SHARE * all,
        "{all_quoted} lines of {all} are quoted"
    );
}

/// The numbers of the lines that are neither empty, nor a comment, nor a test.
fn code_lines(text: &str) -> BTreeSet<usize> {
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").enumerate();
    let is_code =
        |line: &str| !line.trim().is_empty() && !line.trim().starts_with("//");
    lines.filter(|(_, line)| is_code(line)).map(|(number, _)| number).collect()
}

/// Each term is in the chapter that is said to explain it, and the terms are in order.
#[test]
fn the_terms_of_the_glossary_are_in_their_chapters() {
    let glossary = fs::read_to_string(root().join("docs/glossary.md")).expect("text");
    let rows = glossary.lines().filter(|line| line.starts_with("| ")).skip(1);
    let (mut failures, mut terms) = (Vec::new(), Vec::new());
    for row in rows {
        let cells: Vec<&str> = row.split(" | ").collect();
        let [term, _, chapter] = cells[..] else { panic!("{row}") };
        let term = term.trim_start_matches("| ");
        let page = chapter.split(['(', ')']).nth(1).expect(row);
        let text = fs::read_to_string(root().join("docs").join(page)).expect(page);
        // It may be broken across lines.
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if !words.to_lowercase().contains(&term.to_lowercase()) {
            failures.push(format!("{page} has no {term:?}"));
        }
        terms.push(term.replace('-', " ").to_lowercase());
    }
    assert!(terms.len() > 40 && terms.is_sorted(), "{terms:?}");
    report(&failures);
}

#[test]
fn every_invariant_is_explained_upheld_and_tested() {
    let explained: BTreeSet<String> = pages()
        .iter()
        .flat_map(|page| page.prose.split("**").skip(1).step_by(2))
        .filter(|word| is_invariant(word))
        .map(str::to_owned)
        .collect();
    let (mut stated, mut upheld, mut tested) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (_, text) in sources() {
        let (code, tests) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
        for line in code.lines() {
            let line = line.trim_start();
            // `//! - L2: ...` states it. Whatever else names it, but for the list that
            // it stands in, is beside the code that upholds it.
            let item = line.strip_prefix("//! - ").or(line.strip_prefix("//! "));
            let stating = item.and_then(|item| item.split_once(':'));
            let in_list = line.starts_with("//! - ") || line.starts_with("//!   ");
            if let Some((number, _)) = stating.filter(|(name, _)| is_invariant(name)) {
                stated.insert(number.to_owned());
            } else if !in_list && let Some((_, comment)) = line.split_once("//") {
                upheld.extend(invariants_in(comment));
                // One that a single function has, it states itself.
                if let Some((_, after)) = comment.split_once("Invariant ") {
                    stated.extend(invariants_in(after).into_iter().take(1));
                }
            }
        }
        tested.extend(invariants_in(tests));
    }
    for entry in fs::read_dir(root().join("tests")).expect("tests") {
        let path = entry.expect("entry").path();
        let is_test = path.extension().is_some_and(|end| end == "rs");
        if is_test && !path.ends_with("docs.rs") {
            tested.extend(invariants_in(&fs::read_to_string(path).expect("text")));
        }
    }
    assert!(!stated.is_empty(), "no module states an invariant");
    let page = fs::read_to_string(root().join("docs/exercises.md")).expect("text");
    let exercised = invariants_in(&page).into_iter().collect();
    let mut failures = Vec::new();
    for (what, set) in [
        ("explained in a chapter", &explained),
        ("stated by a module", &stated),
        ("cited beside the code that upholds it", &upheld),
        ("cited by a test", &tested),
        ("in an exercise, nor left out there", &exercised),
    ] {
        let all = explained.union(&stated);
        let missing: Vec<&str> =
            all.filter(|number| !set.contains(*number)).map(|s| s.as_str()).collect();
        if !missing.is_empty() {
            failures.push(format!("not {what}: {}", missing.join(" ")));
        }
    }
    report(&failures);
}

#[test]
fn every_page_is_there_and_every_fence_is_of_a_known_kind() {
    let pages = pages();
    for name in ["README.md", "docs/README.md"].into_iter().chain(chapters()) {
        assert!(pages.iter().any(|page| page.name == name), "{name} is missing");
    }
    for (page, fence) in fences(&pages) {
        let kind = fence.info.split([' ', ',']).next().unwrap_or_default();
        let known = ["rust", "wire", "hexdump", "console", "text", "python"];
        assert!(known.contains(&kind), "{}: {:?}?", fence.place(page), fence.info);
    }
}

#[test]
fn a_quote_may_elide_and_dedent_but_not_differ() {
    let file = "fn f() {\n    a();\n\n    b();\n    c();\n}\n";
    for quote in ["a();\n\nb();\n", "a();\n...\nc();\n", "fn f() {\n...\n}\n"] {
        assert!(quotes(quote, file), "{quote:?}");
    }
    for quote in ["a();\nb();\n", "c();\n...\na();\n", "a(); \n", "...\n", ""] {
        assert!(!quotes(quote, file), "{quote:?}");
    }
    assert!(!quotes("fn f() {\na();\n", file), "all lines move by the same width");
}

#[test]
fn constants_are_worked_out_as_rust_does() {
    let known = BTreeMap::from([("WIDTH".to_owned(), 8)]);
    for (text, value) in [
        ("1 << 20", Some(1 << 20)),
        ("60 * 60 * 24 * 30", Some(2_592_000)),
        ("(1 << 31) - 3", Some(2_147_483_645)),
        ("WIDTH + 2", Some(10)),
        ("1_000", Some(1000)),
        ("1 + 1 << 3", Some(16)),
        ("Duration::from_secs(3)", Some(3)),
        ("\"text\"", None),
        ("OTHER + 1", None),
    ] {
        assert_eq!(evaluate(text, &known), value, "{text}");
    }
}

#[test]
fn a_dump_folds_equal_lines_as_hexdump_does() {
    let mut bytes = vec![0; 64];
    bytes.extend(b"A|z");
    let expected = "\
00000000  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|
*
00000040  41 7c 7a                                          |A|z|
00000043
";
    assert_eq!(hexdump(&bytes), expected);
}

#[test]
fn what_can_not_be_run_is_noticed() {
    for line in [
        "make all-of-it",
        "cargo run --bin nothing",
        "cargo run --bin server -- --prot 7",
        "cargo test",
        "cargo test --test nothing",
        "cargo test --test store a_test_that_is_not_there",
        "target/release/client --quote=1 get k",
        "rm -r data",
        "printf x | sh",
    ] {
        assert!(check_line(line).is_err(), "{line}");
    }
    let line = "printf x | nc 127.0.0.1 11211 && target/release/server -p 0 -vv &";
    assert_eq!(check_line(line), Ok(()));
}

// The pages.

struct Page {
    /// Its path from the root.
    name: String,
    /// All that is in no fence.
    prose: String,
    fences: Vec<Fence>,
}

struct Fence {
    /// The line it opens at.
    line: usize,
    /// What stands behind the three ticks.
    info: String,
    text: String,
}

impl Fence {
    fn place(&self, page: &Page) -> String {
        format!("{}, line {}", page.name, self.line)
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<Page> {
    let docs = fs::read_dir(root().join("docs")).expect("docs");
    let mut names: Vec<String> = docs
        .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    names.push("README.md".into());
    names.sort();
    // Whether any is missing is a test of its own.
    names
        .into_iter()
        .filter_map(|name| {
            let text = fs::read_to_string(root().join(&name)).ok()?;
            Some(Page::parse(name, &text))
        })
        .collect()
}

fn fences(pages: &[Page]) -> impl Iterator<Item = (&Page, &Fence)> {
    pages.iter().flat_map(|page| page.fences.iter().map(move |fence| (page, fence)))
}

impl Page {
    fn parse(name: String, text: &str) -> Page {
        let mut page = Page { name, prose: String::new(), fences: Vec::new() };
        let mut open: Option<Fence> = None;
        for (line, content) in (1..).zip(text.lines()) {
            match (content.strip_prefix("```"), &mut open) {
                (Some(info), None) => {
                    let info = info.trim().to_owned();
                    open = Some(Fence { line, info, text: String::new() });
                }
                (Some(_), Some(_)) => page.fences.extend(open.take()),
                (None, Some(fence)) => {
                    fence.text += content;
                    fence.text.push('\n');
                }
                (None, None) => {
                    page.prose += content;
                    page.prose.push('\n');
                }
            }
        }
        assert!(open.is_none(), "{}: a fence is never closed", page.name);
        page
    }

    /// What stands between two ticks.
    fn code_spans(&self) -> impl Iterator<Item = &str> {
        self.prose.split('`').skip(1).step_by(2)
    }

    /// Each name in ticks that has a number in brackets behind it.
    fn numbers(&self) -> Vec<(String, String)> {
        let parts: Vec<&str> = self.prose.split('`').collect();
        let pairs =
            parts.iter().skip(1).step_by(2).zip(parts.iter().skip(2).step_by(2));
        pairs
            .filter_map(|(name, after)| {
                let inside = after.trim_start().strip_prefix('(')?;
                let number = inside.split([')', ' ', '\n', ',']).next()?;
                let counts = number.starts_with(|c: char| c.is_ascii_digit());
                let named = name.starts_with("--")
                    || name
                        .rsplit("::")
                        .next()?
                        .bytes()
                        .all(|b| b.is_ascii_uppercase() || b == b'_');
                (counts && named).then(|| (name.to_string(), number.to_owned()))
            })
            .collect()
    }

    /// The words of the text, without the answers.
    fn words(&self) -> usize {
        let parts = self.prose.split("<details>").enumerate();
        let shown = parts.map(|(number, part)| match part.split_once("</details>") {
            Some((_, after)) if number > 0 => after,
            _ => part,
        });
        shown.map(|part| part.split_whitespace().count()).sum()
    }

    /// How long it takes to read: text, dialogues and code, without what is folded.
    fn minutes(&self) -> usize {
        let (mut lines, mut words) = (0, self.words());
        for fence in self.fences.iter().filter(|fence| fence.info != "console") {
            match fence.info.starts_with("rust") {
                true => lines += fence.text.lines().count(),
                false => words += fence.text.split_whitespace().count(),
            }
        }
        (words * LINES_A_MINUTE + lines * WORDS_A_MINUTE)
            .div_ceil(WORDS_A_MINUTE * LINES_A_MINUTE)
    }

    fn links(&self) -> Vec<String> {
        let targets = self.prose.split("](").skip(1);
        targets.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    }
}

fn report(failures: &[String]) {
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n"));
}

// Quotes.

/// Whether `quote` occurs in `file`, see the top of this file.
fn quotes(quote: &str, file: &str) -> bool {
    places(quote, file).is_some()
}

/// The numbers of the lines of `file` that `quote` shows, if it occurs there.
fn places(quote: &str, file: &str) -> Option<Vec<usize>> {
    let file: Vec<&str> = file.lines().collect();
    let quote: Vec<&str> = quote.lines().collect();
    let parts: Vec<&[&str]> = quote
        .split(|line| line.trim() == "...")
        .filter(|part| !part.is_empty())
        .collect();
    if parts.is_empty() {
        return None;
    }
    (0..=40).find_map(|width| {
        let indent = " ".repeat(width);
        let same = |(line, quoted): (&&str, &&str)| {
            if quoted.is_empty() {
                return line.is_empty();
            }
            line.strip_prefix(indent.as_str()) == Some(*quoted)
        };
        let (mut from, mut lines) = (0, Vec::new());
        for part in &parts {
            let mut places = file[from..].windows(part.len());
            let at = from
                + places.position(|window| window.iter().zip(part.iter()).all(same))?;
            from = at + part.len();
            lines.extend(at..from);
        }
        Some(lines)
    })
}

// Dumps.

/// Sends the lines of a dialogue and waits for each answer before going on, so that
/// the file's bytes hang on nothing else.
fn converse(server: &Server, dialogue: &str) {
    let mut stream = server.connect();
    let mut request = Vec::new();
    for line in dialogue.lines() {
        assert!(!line.contains(['\\', '{']), "too hard for a hex dump: {line}");
        if let Some(sent) = line.strip_prefix("> ") {
            request.extend(format!("{sent}\r\n").bytes());
        } else if let Some(expected) = line.strip_prefix("< ") {
            stream.write_all(&std::mem::take(&mut request)).expect("sent");
            let expected = format!("{expected}\r\n");
            let mut reply = vec![0; expected.len()];
            stream.read_exact(&mut reply).expect("answered");
            assert_eq!(String::from_utf8_lossy(&reply), expected);
        }
    }
    assert!(request.is_empty(), "the last line of a dialogue is an answer");
}

/// `bytes` in the form of `hexdump -C`.
fn hexdump(bytes: &[u8]) -> String {
    let mut dump = String::new();
    let mut last: &[u8] = &[];
    let mut folded = false;
    for (row, line) in bytes.chunks(16).enumerate() {
        if line == last {
            dump += if folded { "" } else { "*\n" };
            folded = true;
            continue;
        }
        (last, folded) = (line, false);
        let mut hex = String::new();
        for (column, byte) in line.iter().enumerate() {
            let space = if column == 8 { " " } else { "" };
            write!(hex, "{space}{byte:02x} ").expect("memory");
        }
        let shown: String = line
            .iter()
            .map(|&b| if (b' '..=b'~').contains(&b) { char::from(b) } else { '.' })
            .collect();
        writeln!(dump, "{:08x}  {hex:<49} |{shown}|", row * 16).expect("memory");
    }
    writeln!(dump, "{:08x}", bytes.len()).expect("memory");
    dump
}

// Commands.

fn check_line(line: &str) -> Result<(), String> {
    line.split(['|', '&', ';']).filter(|part| !part.trim().is_empty()).try_for_each(
        |command| check_command(&command.split_whitespace().collect::<Vec<_>>()),
    )
}

fn check_command(words: &[&str]) -> Result<(), String> {
    match *words {
        ["make", ref targets @ ..] => {
            let makefile = fs::read_to_string(root().join("Makefile"))
                .map_err(|error| format!("Makefile: {error}"))?;
            let mut wanted = targets.iter().filter(|word| !word.contains('='));
            let there = |target: &str| {
                makefile.lines().any(|line| line.starts_with(&format!("{target}:")))
            };
            match wanted.find(|target| !there(target)) {
                Some(target) => Err(format!("no target {target}")),
                None => Ok(()),
            }
        }
        ["cargo", "build", "--examples"] => Ok(()),
        ["cargo", "run", ref rest @ ..] => {
            let rest: Vec<&str> =
                rest.iter().copied().filter(|word| *word != "--release").collect();
            let (directory, name, arguments) = match rest[..] {
                ["--bin", name] => ("src/bin", name, &[][..]),
                ["--bin", name, "--", ..] => ("src/bin", name, &rest[3..]),
                ["--example", name] => ("examples", name, &[][..]),
                ["--example", name, "--", ..] => ("examples", name, &rest[3..]),
                _ => return Err("cargo run what?".into()),
            };
            let path = root().join(directory).join(name);
            // A program is a file, or a directory with its main.rs.
            if !path.with_extension("rs").is_file() && !path.join("main.rs").is_file() {
                return Err(format!("no {name} in {directory}"));
            }
            if directory == "examples" && name != "bench" {
                Ok(())
            } else {
                check_options(name, arguments)
            }
        }
        ["cargo", "test", ref rest @ ..] => {
            let rest: Vec<&str> = rest
                .iter()
                .copied()
                .filter(|word| !word.starts_with("--rel"))
                .collect();
            let ["--test", target, ref filter @ ..] = rest[..] else {
                return Err("cargo test what?".into());
            };
            let text = fs::read_to_string(root().join(format!("tests/{target}.rs")))
                .map_err(|error| format!("tests/{target}.rs: {error}"))?;
            match filter.iter().take_while(|word| !word.starts_with('-')).next() {
                Some(name)
                    if !text.contains(name.rsplit("::").next().unwrap_or(name)) =>
                {
                    Err(format!("no test {name} in tests/{target}.rs"))
                }
                _ => Ok(()),
            }
        }
        ["nc" | "hexdump" | "kill" | "printf", ..] => Ok(()),
        [program, ref arguments @ ..] => {
            match program.strip_prefix("target/release/") {
                Some(name) => check_options(name, arguments),
                None => {
                    Err(format!("{program} is none of the programs that pages use"))
                }
            }
        }
        [] => Ok(()),
    }
}

/// Takes the command line apart as the program itself would.
fn check_options(program: &str, arguments: &[&str]) -> Result<(), String> {
    let words = arguments.iter().map(std::ffi::OsString::from);
    let help = match program {
        "server" => SERVER,
        "client" => CLIENT,
        "driver" => DRIVER,
        "bench" => BENCH,
        _ => return Err(format!("no program {program}")),
    };
    Args::parse("it", help, words).map(|_| ())
}

/// The help of `cargo run --example bench`.
const BENCH: &str = include_str!("../examples/bench/help.txt");

// Numbers.

fn all_options() -> impl Iterator<Item = Spec<'static>> {
    [SERVER, CLIENT, DRIVER, BENCH].into_iter().flat_map(specs)
}

/// What the help says that an option is when it is not given: `... [1024]`.
fn default_of(option: &str) -> Option<Option<String>> {
    let long = format!("--{option} ");
    let mut lines = [SERVER, CLIENT, DRIVER].into_iter().flat_map(str::lines);
    let is_option =
        |line: &&str| line.trim_start().starts_with('-') && line.contains(&long);
    let (_, inside) = lines.find(is_option)?.rsplit_once('[')?;
    Some(inside.split([',', ';', ']', ' ']).next().map(str::to_owned))
}

/// The paths of the Rust files in a directory, and in those below it.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files
}

/// The files of src: their modules' names, and their texts.
fn sources() -> Vec<(String, String)> {
    rust_files(&root().join("src"))
        .into_iter()
        .map(|path| {
            let module = path.file_stem().expect("a name").to_string_lossy().into();
            (module, fs::read_to_string(path).expect("text"))
        })
        .collect()
}

/// The values of every constant of src that is a number, under `NAME` and under
/// `module::NAME`. More than one where modules share a name.
fn constants() -> BTreeMap<String, BTreeSet<String>> {
    let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, text) in sources() {
        let mut known = BTreeMap::new();
        for line in text.lines() {
            let line = line.trim_start();
            let line = line.strip_prefix("pub ").unwrap_or(line);
            let line = line.strip_prefix("pub(crate) ").unwrap_or(line);
            let Some((name, rest)) =
                line.strip_prefix("const ").and_then(|rest| rest.split_once(": "))
            else {
                continue;
            };
            let value = rest.split_once(" = ").and_then(|(_, value)| {
                evaluate(value.strip_suffix(';').unwrap_or(value), &known)
            });
            if let Some(value) = value {
                known.insert(name.to_owned(), value);
            }
        }
        for (name, value) in known {
            for key in [format!("{module}::{name}"), name] {
                values.entry(key).or_default().insert(value.to_string());
            }
        }
    }
    values
}

/// The value of an expression of numbers, names, `+ - * <<` and brackets. A path
/// before a bracket, such as `Duration::from_secs`, changes nothing.
fn evaluate(text: &str, known: &BTreeMap<String, u64>) -> Option<u64> {
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut left = &words[..];
    let value = operation(&mut left, known, 0)?;
    left.is_empty().then_some(value)
}

/// The operators, those that bind least first.
const OPERATORS: [&[&str]; 3] = [&["<<"], &["+", "-"], &["*"]];

fn operation(
    words: &mut &[&str],
    known: &BTreeMap<String, u64>,
    level: usize,
) -> Option<u64> {
    let Some(operators) = OPERATORS.get(level) else { return operand(words, known) };
    let mut value = operation(words, known, level + 1)?;
    while let Some((operator, rest)) = words.split_first()
        && operators.contains(operator)
    {
        *words = rest;
        let right = operation(words, known, level + 1)?;
        value = match *operator {
            "<<" => value.checked_shl(u32::try_from(right).ok()?)?,
            "+" => value.checked_add(right)?,
            "-" => value.checked_sub(right)?,
            _ => value.checked_mul(right)?,
        };
    }
    Some(value)
}

fn operand(words: &mut &[&str], known: &BTreeMap<String, u64>) -> Option<u64> {
    let (word, rest) = words.split_first()?;
    *words = rest;
    if *word == "(" {
        let value = operation(words, known, 0)?;
        let (close, rest) = words.split_first()?;
        *words = rest;
        return (*close == ")").then_some(value);
    }
    if word.contains("::") && words.first() == Some(&"(") {
        return operand(words, known);
    }
    word.replace('_', "").parse().ok().or_else(|| known.get(*word).copied())
}

// Invariants.

/// Whether this is the number of an invariant: `L2`.
fn is_invariant(word: &str) -> bool {
    matches!(word.as_bytes(), [letter, digit]
        if b"PFLRSCVWKDM".contains(letter) && digit.is_ascii_digit())
}

fn invariants_in(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| is_invariant(word))
        .map(str::to_owned)
        .collect()
}
