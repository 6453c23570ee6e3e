//! Owns the judgement of opens: which bytes an open file may have, and when it must be had.
//! Does not know names.

use std::sync::Arc;
use std::time::Duration;

use secretfs::backend::Error;
use secretfs::errno::Failure;
use secretfs::fs::{Caller, Opened};

use super::Race;
use super::reference::{MAX_SIZE, Reference, TTL};
use super::run::{Open, Place, Run, Shown, Verdict, change, ensure, shown};

impl Run {
    pub(super) async fn open(&mut self, node: usize) -> Verdict {
        let (reads, is_held) = (self.backend.reads(), self.is_held(node));
        let opened = self.fs.open(self.known[node].ino, Caller(0)).await;
        self.judge_open(node, opened, self.backend.reads() > reads, is_held).await
    }

    pub(super) fn mostly_a_file(&self, node: usize) -> usize {
        let files: Vec<usize> = (0..self.known.len())
            .filter(|at| !matches!(self.known[*at].place, Place::Directory(_)))
            .collect();
        if files.is_empty() || node % 16 == 15 { node % self.known.len() } else { files[node % files.len()] }
    }

    /// Whether the secret is known to be in the cache now.
    fn is_held(&self, node: usize) -> bool {
        match &self.known[node].place {
            Place::Directory(_) => false,
            Place::Field(path, _) | Place::View(path, _) => {
                let fetched = self.fetched.get(path).filter(|_| !self.evicts);
                fetched.is_some_and(|fetched| self.reference.now < *fetched + TTL)
            }
        }
    }

    /// Two opens of one file at a slow backend that reads in the middle of its time; before that and after that the
    /// secret changes (or, without a field, goes) and time passes.
    pub(super) async fn race(&mut self, race: &Race) -> Verdict {
        let &Race { node, before, after, fields, size, later } = race;
        let node = self.mostly_a_file(node);
        let (Place::Field(path, _) | Place::View(path, _)) = self.known[node].place.clone() else {
            return Ok(());
        };
        let (ino, reads) = (self.known[node].ino, self.backend.reads());
        let Self { backend, clock, fs, reference, puts, .. } = &mut *self;
        let asked = reference.asked;
        let pass = |by: u64, reference: &mut Reference| {
            clock.advance(Duration::from_millis(by));
            reference.now += Duration::from_millis(by);
        };
        let milliseconds = |count| tokio::time::sleep(Duration::from_millis(count));
        backend.delay(Duration::from_millis(10));
        let (first, second) = tokio::join!(fs.open(ino, Caller(0)), async {
            milliseconds(2).await;
            pass(before, reference);
            change(backend, reference, puts, &path, 3, size);
            milliseconds(5).await;
            change(backend, reference, puts, &path, fields, size);
            pass(after, reference);
            milliseconds(1).await;
            fs.open(ino, Caller(0)).await
        });
        backend.delay(Duration::ZERO);
        let (was_read, is_held) = (self.backend.reads() > reads, self.is_held(node));
        self.reference.asked = asked;
        let told = self.known[node].told;
        self.judge_open(node, first, was_read, is_held).await?;
        // Both were opened before either was asked for its attributes, which is what the judgement does.
        let told_of_first = std::mem::replace(&mut self.known[node].told, told);
        let second_is_open = second.is_ok();
        self.judge_open(node, second, was_read, is_held).await?;
        if !second_is_open {
            // There is nothing to ask for attributes: what the kernel was told last is what the first had.
            self.known[node].told = told_of_first;
        }
        if was_read {
            // Which of the two asked, and when, is not known.
            self.fetched.remove(&path);
        }
        let looked = asked + Duration::from_millis(before);
        if later && let Some(rest) = (looked + TTL).checked_sub(self.reference.now) {
            // From here on what the backend said then is too old.
            self.advance(rest);
            self.open(node).await?;
        }
        Ok(())
    }

    /// An open, a change at once, and an open at each side of the end of the TTL.
    pub(super) async fn age(&mut self, node: usize, fields: usize, size: usize) -> Verdict {
        let node = self.mostly_a_file(node);
        self.open(node).await?;
        if let Place::Field(path, _) | Place::View(path, _) = &self.known[node].place {
            change(&self.backend, &mut self.reference, &mut self.puts, path, fields, size);
        }
        for wait in [TTL - Duration::from_millis(1), Duration::from_millis(1)] {
            self.advance(wait);
            self.open(node).await?;
        }
        Ok(())
    }

    async fn judge_open(
        &mut self,
        node: usize,
        opened: Result<Opened, Failure>,
        was_read: bool,
        is_held: bool,
    ) -> Verdict {
        let asked = self.reference.asked;
        let (path, field) = match &self.known[node].place {
            Place::Directory(_) => {
                return ensure(opened.err() == Some(Failure::IsADirectory), "a directory has no bytes");
            }
            Place::Field(path, name) | Place::View(path, name) => (path.clone(), *name),
        };
        if is_held {
            ensure(!was_read, "a value within its TTL is served without asking")?;
        }
        let opened = match opened {
            Ok(opened) => opened,
            Err(Failure::TooLarge { limit }) => {
                let large = |value: &[u8]| value.len() > MAX_SIZE;
                let versions = self.reference.showable(&path);
                let is_large = versions.iter().any(|version| version.field(field).is_some_and(large));
                return ensure(limit == MAX_SIZE && is_large, "only a large value is refused as too large");
            }
            Err(failure) => {
                let outage = matches!(&failure, Failure::Backend(error) if *error != Error::NotFound);
                ensure(!(is_held && outage), "a value within its TTL is served through an outage")?;
                return self.judge_failure(&failure, self.must_open(node));
            }
        };
        let file = self.fs.opened(opened.handle).map_err(|failure| failure.to_string())?;
        let (bytes, snapshot) = (file.bytes().to_vec(), Arc::downgrade(file.snapshot()));
        drop(file);
        let fstat = self.fs.attributes(self.known[node].ino, Some(opened.handle)).await;
        let seen = shown(&fstat.map_err(|failure| failure.to_string())?);
        ensure(seen.0 == bytes.len() as u64, "fstat shows the size of what was opened")?;
        self.judge_bytes(node, &bytes, seen)?;
        if let Some(told) = self.known[node].told {
            ensure(
                opened.attributes_changed || told == seen,
                "the kernel is told when what it knows is old",
            )?;
        }
        self.known[node].told = Some(seen);
        // In an outage what was opened is stale, and the question had no answer.
        if was_read && !self.reference.is_failing() {
            self.fetched.insert(path.clone(), asked);
        }
        self.snapshots.push((snapshot.clone(), self.reference.now));
        self.open.push(Open {
            number: opened.handle,
            ino: self.known[node].ino,
            bytes,
            shown: seen,
            snapshot,
        });
        Ok(())
    }

    /// Whether some version that may be shown has exactly these bytes.
    fn judge_bytes(&self, node: usize, bytes: &[u8], seen: Shown) -> Verdict {
        let fits = |path: &str, bytes_of: &dyn Fn(&super::reference::Version) -> bool| {
            let versions = self.reference.showable(path);
            versions.iter().any(|version| Duration::from_secs(version.number) == seen.1 && bytes_of(version))
        };
        match &self.known[node].place {
            Place::Directory(_) => Err("a directory was opened".into()),
            Place::Field(path, field) => {
                ensure(bytes.len() <= MAX_SIZE, "a value above the limit cannot be opened")?;
                let fits = fits(path, &|version| version.field(field) == Some(bytes));
                ensure(
                    fits,
                    &format!("{:?} is no value of it within the TTL", bytes.escape_ascii().to_string()),
                )
            }
            Place::View(path, ".meta") => {
                let text = String::from_utf8_lossy(bytes);
                ensure(!text.contains("canary"), ".meta holds no value")?;
                ensure(
                    fits(path, &|v| text.contains(&format!("\"version\":\"{}\"", v.number))),
                    ".meta is of a version",
                )
            }
            Place::View(path, view) => {
                let fits = fits(path, &|version| version.view(view).as_deref() == Some(bytes));
                ensure(
                    fits,
                    &format!("{:?} is no version of it within the TTL", bytes.escape_ascii().to_string()),
                )
            }
        }
    }

    pub(super) fn must_open(&self, node: usize) -> bool {
        let reference = &self.reference;
        reference.is_calm()
            && match &self.known[node].place {
                Place::Directory(_) => true,
                Place::Field(path, field) => reference.surely_has_field(path, field),
                Place::View(path, _) => reference.is_surely_there(path),
            }
    }

    pub(super) fn judge_failure(&self, failure: &Failure, must_be_found: bool) -> Verdict {
        match failure {
            Failure::NoEntry | Failure::Backend(Error::NotFound) => {
                ensure(!must_be_found, "what is there is found within the negative TTL")
            }
            Failure::Backend(error) => {
                ensure(self.reference.excuses(error), &format!("`{error}` is not what the backend says"))
            }
            other => Err(format!("an error that nothing explains: {other:?}")),
        }
    }

    pub(super) fn read(&self, handle: usize, offset: u64, size: usize) -> Verdict {
        for number in &self.closed {
            let gone = self.fs.opened(*number).err() == Some(Failure::BadHandle);
            ensure(gone, "a closed handle is never another file's")?;
        }
        let Some(open) = (!self.open.is_empty()).then(|| &self.open[handle % self.open.len()]) else {
            return Ok(());
        };
        let file = self.fs.opened(open.number).map_err(|failure| failure.to_string())?;
        let start = usize::try_from(offset).unwrap().min(open.bytes.len());
        let end = (start + size).min(open.bytes.len());
        ensure(file.read(offset, size) == &open.bytes[start..end], "an open file keeps its version")
    }
}
