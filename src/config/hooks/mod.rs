//! Owns `[[hook]]`: which program is told of which changes, and that each hook says one thing to do.
//! Does not know how a program is run.

use std::path::{Path, PathBuf};

use toml_edit::Document;

use super::keys::Table;
use super::reader::Section;
use super::shape::{At, tables};
use super::{Reading, units};
use crate::hooks::{Action, Config, DEFAULT_DEBOUNCE, DEFAULT_INTERVAL, DEFAULT_TIMEOUT, User};
use crate::pattern::{Pattern, Set};
use crate::trusted_file;

/// Each says by itself what a hook does.
const ACTIONS: [&str; 3] = ["exec", "signal", "reload"];
/// What goes with one of them only.
const COMPANIONS: [(&str, &str); 3] = [("pid_file", "signal"), ("unit", "signal"), ("user", "exec")];

/// Every hook of the file that could be read, each with its place; what is wrong is noted.
pub(super) fn read<'a>(reading: &Reading<'a>, document: &'a Document<&str>) -> Vec<At<Config>> {
    let found = tables(reading.notes, document, "hook").map(|found| found.value).unwrap_or_default();
    let hooks = found.into_iter().filter_map(|(at, table)| {
        let section = Section::new(reading.notes, "[[hook]]".into(), at, table).knows(Table::Hook);
        let config = hook(reading, &section)?;
        Some(At { at, value: config })
    });
    hooks.collect()
}

fn hook<'a>(reading: &Reading<'a>, section: &Section<'a>) -> Option<Config> {
    section.refuse_unknown();
    section.require("path");
    let patterns = patterns(section);
    let action = action(reading, section);
    let zero = |name, default| {
        section.parsed(name, units::duration_or_zero).map_or(default, |found: At<_>| found.value)
    };
    let timeout = section.parsed("timeout", units::duration);
    let (debounce, interval) = (zero("debounce", DEFAULT_DEBOUNCE), zero("interval", DEFAULT_INTERVAL));
    let log_output = section.switch("log_output").unwrap_or(true);
    Some(Config {
        patterns: patterns?,
        action: action?,
        debounce,
        interval,
        timeout: timeout.map_or(DEFAULT_TIMEOUT, |found| found.value),
        log_output,
    })
}

fn patterns(section: &Section<'_>) -> Option<Vec<Pattern>> {
    let At { at, value } = section.text_or_texts("path")?;
    if value.is_empty() {
        section.refuse("path", at, "this is empty; give at least one pattern");
        return None;
    }
    let parsed: Result<Vec<_>, _> = value.into_iter().map(Pattern::parse).collect();
    let checked = parsed.and_then(|patterns| Set::new(&patterns).map(|_| patterns));
    checked.map_err(|bad| section.refuse("path", at, bad)).ok()
}

fn action<'a>(reading: &Reading<'a>, section: &Section<'a>) -> Option<Action> {
    let given: Vec<_> = ACTIONS.into_iter().filter(|name| section.has(name)).collect();
    let [action] = *given.as_slice() else {
        section.note(match given.is_empty() {
            true => "this does nothing; add one of `exec`, `signal`, `reload`",
            false => "a hook has one of `exec`, `signal`, `reload`; write a [[hook]] for each",
        });
        return None;
    };
    for (name, goes_with) in COMPANIONS.into_iter().filter(|(_, goes_with)| *goes_with != action) {
        if let Some(at) = section.place_of(name) {
            section.refuse(name, at, format_args!("this goes with `{goes_with}`; remove it"));
        }
    }
    match action {
        "exec" => exec(section),
        "signal" => signal(reading, section),
        _ => Some(Action::Reload { unit: section.parsed("reload", units::unit)?.value }),
    }
}

fn exec(section: &Section<'_>) -> Option<Action> {
    let user = match section.has("user") {
        true => Some(user(section)?),
        false => None,
    };
    let At { at, value } = section.texts("exec")?;
    let mut words = value.into_iter().map(str::to_owned);
    let refuse = |text: &str| section.refuse("exec", at, text);
    let Some(program) = words.next().map(PathBuf::from) else {
        refuse("this is empty; give a program, an absolute path, and its arguments");
        return None;
    };
    if !program.is_absolute() {
        refuse("the program, the first string, must be an absolute path: no shell and no PATH looks for it");
        return None;
    }
    if let Err(bad) = runnable(&program) {
        refuse(&format!("the program, the first string: {bad}"));
        return None;
    }
    Some(Action::Exec { program, arguments: words.collect(), user })
}

/// Whoever can write the program decides what this process's user does.
fn runnable(program: &Path) -> Result<(), String> {
    trusted_file::check(program).map_err(|refusal| refusal.to_string())?;
    match rustix::fs::access(program, rustix::fs::Access::EXEC_OK) {
        Ok(()) => Ok(()),
        Err(_) => Err("the file cannot be run; run `chmod +x` on it".to_owned()),
    }
}

fn user(section: &Section<'_>) -> Option<User> {
    let uid = section.owner("user", units::user)?;
    let known = uzers::get_user_by_uid(uid).map(|user| User { uid, gid: user.primary_group_id() });
    if known.is_none() {
        let at = section.place_of("user").unwrap_or(section.at);
        section.refuse("user", at, units::Bad::UnknownUser);
    }
    known
}

fn signal<'a>(reading: &Reading<'a>, section: &Section<'a>) -> Option<Action> {
    let signal = section.parsed("signal", units::signal);
    match (section.place_of("pid_file"), section.place_of("unit")) {
        (Some(_), Some(at)) => {
            section.refuse("unit", at, "a signal goes to `pid_file` or to `unit`; remove one of the two");
            None
        }
        (Some(_), None) => {
            let (_, pid_file) = reading.path(section, "pid_file")?;
            Some(Action::Signal { signal: signal?.value, pid_file })
        }
        (None, Some(_)) => {
            let unit = section.parsed("unit", units::unit)?.value;
            Some(Action::SignalUnit { signal: signal?.value, unit })
        }
        (None, None) => {
            section.note("`signal` needs a receiver; add `pid_file` or `unit`");
            None
        }
    }
}

#[cfg(test)]
mod tests;
