//! The stream of the old scp protocol (never standardised; OpenSSH's scp.c is the reference): records `C`, `D`, `E`, `T`
//! as lines, the bytes of a file after its `C`, and a status byte after them. What must not be here: sessions and rows.

use bytes::{Buf, Bytes};

/// Longest record; OpenSSH's buffer is 2048 bytes.
const MAX_LINE: usize = 4096;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    File {
        name: String,
        size: u64,
    },
    Data(Bytes),
    /// The sender has said that the file is complete.
    FileEnd,
    Folder {
        name: String,
    },
    FolderEnd,
    /// Not scp: nothing after it can be told.
    Unknown,
}

#[derive(Default)]
enum State {
    #[default]
    Record,
    Bytes(u64),
    /// The status byte after a file, or a message.
    Status,
    Lost,
}

#[derive(Default)]
pub(super) struct Stream {
    state: State,
    line: Vec<u8>,
}

impl Stream {
    /// The next event in `data`, from which it is taken; `None` when more is needed.
    pub(super) fn next(&mut self, data: &mut Bytes) -> Option<Event> {
        loop {
            match self.state {
                State::Lost => {
                    data.clear();
                    return None;
                }
                State::Bytes(0) => self.state = State::Status,
                State::Bytes(left) => {
                    if data.is_empty() {
                        return None;
                    }
                    let n = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
                    self.state = State::Bytes(left.saturating_sub(n as u64));
                    return Some(Event::Data(data.split_to(n)));
                }
                State::Status => {
                    let status = *data.first()?;
                    data.advance(1);
                    self.state = State::Record;
                    if status == 0 {
                        return Some(Event::FileEnd);
                    }
                    // A warning or an error of the sender: its message is a line, and the file is over.
                    self.line.push(status);
                    return Some(Event::FileEnd);
                }
                State::Record => {
                    let Some(line) = self.take_line(data) else {
                        if self.line.len() > MAX_LINE {
                            return Some(self.lost());
                        }
                        return None;
                    };
                    match self.record(&line) {
                        Some(event) => return Some(event),
                        None => continue,
                    }
                }
            }
        }
    }

    /// A whole line without its end. Status bytes of the other direction's acknowledgements are passed over.
    fn take_line(&mut self, data: &mut Bytes) -> Option<Vec<u8>> {
        while self.line.is_empty() && data.first() == Some(&0) {
            data.advance(1);
        }
        let end = data.iter().position(|b| *b == b'\n');
        let take = end.unwrap_or(data.len());
        self.line.extend_from_slice(data.get(..take)?);
        data.advance(take);
        end?;
        data.advance(1);
        Some(std::mem::take(&mut self.line))
    }

    fn lost(&mut self) -> Event {
        self.state = State::Lost;
        self.line = Vec::new();
        Event::Unknown
    }

    fn record(&mut self, line: &[u8]) -> Option<Event> {
        let text = String::from_utf8_lossy(line).into_owned();
        let name = |text: &str| text.splitn(3, ' ').nth(2).filter(|n| !n.is_empty()).map(str::to_owned);
        match line.first() {
            Some(b'C') => {
                let size = text.split(' ').nth(1).and_then(|s| s.parse().ok());
                match (size, name(&text)) {
                    (Some(size), Some(name)) => {
                        self.state = State::Bytes(size);
                        Some(Event::File { name, size })
                    }
                    _ => Some(self.lost()),
                }
            }
            Some(b'D') => match name(&text) {
                Some(name) => Some(Event::Folder { name }),
                None => Some(self.lost()),
            },
            Some(b'E') => Some(Event::FolderEnd),
            // Times of the next record; messages of the sender.
            Some(b'T' | 1 | 2) => None,
            _ => Some(self.lost()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(chunks: &[&[u8]]) -> Vec<Event> {
        let (mut stream, mut all) = (Stream::default(), Vec::new());
        for chunk in chunks {
            let mut data = Bytes::copy_from_slice(chunk);
            while let Some(event) = stream.next(&mut data) {
                match (all.last_mut(), event) {
                    // How data is cut does not matter.
                    (Some(Event::Data(before)), Event::Data(more)) => {
                        *before = [before.as_ref(), &more].concat().into();
                    }
                    (_, event) => all.push(event),
                }
            }
        }
        all
    }

    #[test]
    fn a_tree_is_followed_however_the_stream_is_cut() {
        let stream = b"T1 0 1 0\nD0755 0 dir\nC0644 5 a b\nhello\0C0600 0 empty\n\0E\nC0644 3 c\nxyz\0";
        let whole = events(&[stream]);
        assert_eq!(
            whole,
            [
                Event::Folder { name: "dir".into() },
                Event::File { name: "a b".into(), size: 5 },
                Event::Data(Bytes::from_static(b"hello")),
                Event::FileEnd,
                Event::File { name: "empty".into(), size: 0 },
                Event::FileEnd,
                Event::FolderEnd,
                Event::File { name: "c".into(), size: 3 },
                Event::Data(Bytes::from_static(b"xyz")),
                Event::FileEnd,
            ]
        );
        for size in [1, 2, 3, 7] {
            assert_eq!(events(&stream.chunks(size).collect::<Vec<_>>()), whole, "chunks of {size}");
        }
    }

    #[test]
    fn what_is_not_scp_is_lost_at_once() {
        assert_eq!(events(&[b"hello\n"]), [Event::Unknown]);
        assert_eq!(events(&[b"C0644 x name\n"]), [Event::Unknown]);
        assert_eq!(events(&[&[b'C'; 5000]]), [Event::Unknown]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_never_panic(chunks: Vec<Vec<u8>>) {
            let _ = events(&chunks.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
    }
}
