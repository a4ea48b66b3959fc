//! The interpreter: plays a scene, one step after the other, and checks what comes.
//!
//! ```text
//! client 1> set name John     the command is sent, and nothing is waited for
//! client 2> get name          so is this one: now both are under way
//! client 1< STORED            waits for the first reply, compares and shows it
//! client 2< John | Jane       waits for the second
//! ```
//!
//! A step that expects something waits for it, and for nothing else; so what comes too
//! early stays where it is, and what comes too late or never is a timeout.
//!
//! - D1: a verdict is ok only if every reply was compared with what it should be, and nothing
//!   came that was not asked for.
//! - D2: nothing that a scene has started or written outlives it. If the driver itself is
//!   killed, its clients end with their input, its servers because nobody is connected; the
//!   directory stays.
//! - D3: what is asked for depends on the script and the seed, and on nothing else.

use crate::driver::actor::{Actor, Result};
use crate::driver::script::{Act, Scene, Step};
use crate::driver::stage::Stage;
use crate::driver::text::{Agreement, Numbers, Text, compare, fill_in, ordinal};
use crate::protocol::words::shown;

/// Plays a scene to its end. The error is the line, and what was wrong there.
pub fn play(
    stage: &mut Stage,
    scene: &Scene,
) -> std::result::Result<(), (usize, String)> {
    let mut line = 1;
    let mut run = || {
        if !scene.steps.iter().any(|(_, step)| step.actor == "server") {
            stage.start_server(&[])?;
        }
        for (number, it) in &scene.steps {
            line = *number;
            step(stage, it)?;
        }
        // D1. What is found now belongs to the last step, as far as anyone can tell.
        for (_, actor) in stage.actors.iter_mut().filter(|(name, _)| *name != "server")
        {
            actor.shutdown();
            actor.closed()?;
        }
        Ok(())
    };
    run().map_err(|why| (line, why))
}

/// Plays one step. What needs a connection, or a client without options, opens it first.
fn step(stage: &mut Stage, Step { actor, act }: &Step) -> Result {
    match (act, actor.as_str()) {
        (Act::Word("numbered"), _) => stage.is_numbered = true,
        (Act::Switch(name, is_queued), _) => {
            stage.connect(name, *is_queued)?;
            stage.current.clone_from(name);
        }
        (Act::Print(text), _) => stage.show(text),
        (Act::Start(options), "server") => stage.start_server(options)?,
        (Act::Start(options), name) => stage.start_client(name, options)?,
        (Act::Prints(text), "server") => drop(stage.prints("server", text)?),
        // The end of its output is the end of the process.
        (Act::Word("idle"), name) => {
            stage.show("Waiting for the server, which ends when nobody is connected");
            stage.prints(name, "Detached from ")?;
            let mut server = stage.actors.remove(name);
            while let Some(line) = server.as_mut().map_or(Ok(None), Actor::line)? {
                stage.show(&line);
            }
        }
        (Act::Word("killed"), "server") => stage.kill("server")?,
        (act, "") => {
            let name = stage.current.clone();
            stage.connect(&name, false)?;
            speak(stage, &name, act)?;
        }
        (act, name) => {
            if !stage.actors.contains_key(name) {
                stage.start_client(name, &[])?;
            }
            speak(stage, name, act)?;
        }
    }
    Ok(())
}

/// What a client or a connection does, which is there.
fn speak(stage: &mut Stage, name: &str, act: &Act) -> Result {
    let actor = stage.actors.get_mut(name).ok_or("it is gone")?;
    match act {
        Act::Send(text) => actor.send(&fill_in(text, &stage.numbers)),
        Act::Receive(texts) => {
            let (asked, received) = actor.receive(texts, &mut stage.numbers)?;
            let nth = match stage.is_numbered {
                true => format!("{} instruction ", ordinal(actor.answered)),
                false => String::new(),
            };
            actor.answered += 1;
            stage.replies += 1;
            let name = &actor.name;
            let line =
                format!("{name}: {nth}'{asked}' received response: \"{received}\"");
            stage.show(&line);
            Ok(())
        }
        Act::List(texts) => {
            list(actor, texts, &mut stage.numbers)?;
            stage.replies += 1;
            Ok(())
        }
        Act::Count(number, line) => {
            let count = actor.count(line)?;
            let shown = actor.named(format!("{line} came {count} times"));
            stage.numbers.insert(number.clone(), count.to_string().into());
            stage.replies += count;
            stage.show(&shown);
            Ok(())
        }
        Act::Prints(text) => stage.prints(name, text).map(drop),
        Act::Word("closed") => actor.closed(),
        Act::Word("shutdown") => {
            actor.shutdown();
            Ok(())
        }
        Act::Word("leaves") => {
            actor.shutdown();
            actor.closed()?;
            let line = actor.named("Connection closed");
            stage.show(&line);
            stage.actors.remove(name);
            stage.prints("server", "Client disconnected").map(drop)
        }
        // `killed`
        _ => stage.kill(name),
    }
}

/// Waits for a list, in which each of these texts is a line.
fn list(actor: &mut Actor, texts: &[Text], numbers: &mut Numbers) -> Result {
    let mut lines = Vec::new();
    loop {
        let line = actor.line()?.unwrap_or_default();
        if line == "END" {
            break;
        }
        if !line.starts_with("STAT ") {
            let why = format!("should receive a list, received {line:?}");
            return Err(actor.named(why));
        }
        lines.push(format!("{line}\r\n"));
    }
    for text in texts {
        let is_it = |line: &String| {
            let agreement = compare(text, line.as_bytes(), numbers);
            agreement == Agreement::Whole(line.len())
        };
        if !lines.iter().any(is_it) {
            let text = shown(&fill_in(text, numbers));
            return Err(actor.named(format!("no \"{text}\" in the list")));
        }
    }
    Ok(())
}
