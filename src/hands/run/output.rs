//! Owns what becomes of a program's output: lines for the log, within bounds, and the count of the rest.
//! Does not know where the bytes come from or where the lines go.

use crate::printable::printable;

/// Bytes of one run that are logged.
const LOGGED: usize = 64 << 10;
/// Bytes of one line that are logged.
const LINE: usize = 8 << 10;

/// The output of one run.
#[derive(Debug)]
pub(super) struct Output {
    line: Vec<u8>,
    is_line_cut: bool,
    /// Bytes that may still be logged.
    room: usize,
    is_cut: bool,
    total: u64,
}

impl Output {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { line: Vec::new(), is_line_cut: false, room: LOGGED, is_cut: false, total: 0 }
    }

    /// How many bytes there were.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Takes what the program printed; `log` gets each line that is complete, fit to be shown.
    pub(super) fn take(&mut self, bytes: &[u8], log: &mut dyn FnMut(&str)) {
        self.total += bytes.len() as u64;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.room == 0 {
                self.is_cut = true;
                return;
            }
            let complete = piece.strip_suffix(b"\n");
            let text = complete.unwrap_or(piece);
            let fits = text.len().min(LINE.saturating_sub(self.line.len())).min(self.room);
            self.line.extend(text.iter().take(fits));
            self.room -= fits;
            self.is_line_cut |= fits < text.len();
            if complete.is_some() {
                self.room = self.room.saturating_sub(1);
                self.flush(log);
            }
        }
    }

    /// The program is done: what stands on its last line, and how much there was if not all of it was shown.
    pub(super) fn end(&mut self, log: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            self.is_cut |= self.is_line_cut && self.room == 0;
            self.flush(log);
        }
        if self.is_cut {
            log(&format!("[cut; {} bytes in all]", self.total));
        }
    }

    fn flush(&mut self, log: &mut dyn FnMut(&str)) {
        let cut = if self.is_line_cut { " [cut]" } else { "" };
        log(&format!("{}{cut}", printable(&String::from_utf8_lossy(&self.line))));
        self.line.clear();
        self.is_line_cut = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(pieces: &[&[u8]]) -> (Vec<String>, u64) {
        let (mut output, mut lines) = (Output::new(), Vec::new());
        for piece in pieces {
            output.take(piece, &mut |line| lines.push(line.to_owned()));
        }
        output.end(&mut |line| lines.push(line.to_owned()));
        (lines, output.total())
    }

    #[test]
    fn output_is_lines_however_it_comes() {
        let expected = ["one", "", "two \\u{1b}[2J\\r", "three \u{fffd}"];
        let text = b"one\n\ntwo \x1b[2J\r\nthree \xff";
        assert_eq!(lines(&[text]), (expected.map(str::to_owned).to_vec(), text.len() as u64));
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(lines(&bytes).0, expected);
        assert_eq!(lines(&[]), (vec![], 0));
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_is_whole() {
        let text = [vec![b'x'; LINE + 5], b"\nnext\n".to_vec()].concat();
        let (lines, _) = lines(&[&text]);
        assert_eq!(lines, [format!("{} [cut]", "x".repeat(LINE)), "next".to_owned()]);
    }

    #[test]
    fn a_flood_is_counted_and_not_logged() {
        let block = b"canary of a flood\n".repeat(1000);
        let blocks = vec![block.as_slice(); 100];
        let (lines, total) = lines(&blocks);
        assert_eq!(total, 1_800_000);
        assert!(lines.iter().map(String::len).sum::<usize>() <= LOGGED + 100);
        assert!(lines.iter().map(String::len).sum::<usize>() > LOGGED / 2);
        assert_eq!(lines.last().unwrap(), "[cut; 1800000 bytes in all]");
    }

    proptest! {
        #[test]
        fn no_output_is_too_strange(pieces in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..50),
                (0usize..3).prop_map(|n| vec![b'y'; n * LINE]),
                (0usize..3).prop_map(|n| vec![b'\n'; n * LOGGED / 2]),
            ], 0..20)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let (lines, total) = lines(&pieces);
            prop_assert_eq!(total, pieces.iter().map(|piece| piece.len() as u64).sum::<u64>());
            prop_assert!(lines.len() <= LOGGED + 2);
            for line in &lines {
                prop_assert!(!line.chars().any(char::is_control));
                // U+FFFD is three bytes of a log for one of the program, an escape up to six
                prop_assert!(line.len() <= LINE * 6 + 64);
            }
        }
    }
}
