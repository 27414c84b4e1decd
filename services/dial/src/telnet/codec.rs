//! The telnet protocol without IO (RFC 854, 855): takes bytes from the wire, gives data bytes and what to answer.
//!
//! Options that we take part in: BINARY (RFC 856), ECHO by the server (857), SUPPRESS-GO-AHEAD (858), TERMINAL-TYPE
//! (1091) and NAWS (1073). Everything else is refused. State is kept as RFC 1143 demands, so a confirmation is never
//! answered, and the number of answers per connection is bounded, so a hostile asset cannot make us talk for ever.

const IAC: u8 = 255;
const DONT: u8 = 254;
const DO: u8 = 253;
const WONT: u8 = 252;
const WILL: u8 = 251;
const SB: u8 = 250;
const SE: u8 = 240;

const BINARY: u8 = 0;
const ECHO: u8 = 1;
const SUPPRESS_GO_AHEAD: u8 = 3;
const TERMINAL_TYPE: u8 = 24;
const NAWS: u8 = 31;

const TERMINAL_TYPE_IS: u8 = 0;
const TERMINAL_TYPE_SEND: u8 = 1;

/// A sub-negotiation longer than this is skipped.
const MAX_SUB: usize = 256;
/// Answers to negotiations per connection; real servers need about ten.
const MAX_ANSWERS: u32 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    /// After a carriage return that was already delivered: a NUL that follows belongs to it (RFC 854, "CR NUL").
    CarriageReturn,
    Iac,
    /// After IAC and this verb.
    Verb(u8),
    Sub,
    SubIac,
}

/// Which options are on, by side.
#[derive(Debug, Default, Clone, Copy)]
struct Side {
    binary: bool,
    echo: bool,
    suppress_go_ahead: bool,
    terminal_type: bool,
    naws: bool,
}

impl Side {
    fn get(&mut self, option: u8) -> Option<&mut bool> {
        match option {
            BINARY => Some(&mut self.binary),
            ECHO => Some(&mut self.echo),
            SUPPRESS_GO_AHEAD => Some(&mut self.suppress_go_ahead),
            TERMINAL_TYPE => Some(&mut self.terminal_type),
            NAWS => Some(&mut self.naws),
            _ => None,
        }
    }
}

/// One telnet connection's protocol state, client side.
pub struct Codec {
    state: State,
    ours: Side,
    theirs: Side,
    sub: Vec<u8>,
    sub_overflow: bool,
    replies: Vec<u8>,
    answers: u32,
    term: String,
    size: (u16, u16),
}

impl Codec {
    /// `term` is what we answer to TERMINAL-TYPE (at most 40 characters of letters, digits, `-`, `_`, `.`, `+`); `cols`
    /// and `rows` to NAWS.
    pub fn new(term: &str, cols: u16, rows: u16) -> Self {
        let term: String =
            term.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+')).take(40).collect();
        Self {
            state: State::Data,
            ours: Side::default(),
            theirs: Side::default(),
            sub: Vec::new(),
            sub_overflow: false,
            replies: Vec::new(),
            answers: 0,
            term: if term.is_empty() { "vt100".into() } else { term },
            size: (cols, rows),
        }
    }

    /// Takes bytes from the wire and appends the data among them to `data`. Answers gather for
    /// [`Codec::take_replies`].
    pub fn receive(&mut self, wire: &[u8], data: &mut Vec<u8>) {
        for &byte in wire {
            self.state = match self.state {
                State::Data | State::CarriageReturn => self.on_data(byte, data),
                State::Iac => self.on_command(byte, data),
                State::Verb(verb) => {
                    self.negotiate(verb, byte);
                    State::Data
                }
                State::Sub => {
                    if byte == IAC {
                        State::SubIac
                    } else {
                        self.on_sub(byte);
                        State::Sub
                    }
                }
                State::SubIac => match byte {
                    SE => {
                        self.sub_done();
                        State::Data
                    }
                    IAC => {
                        self.on_sub(IAC);
                        State::Sub
                    }
                    // The sender forgot SE: what follows is a command of its own.
                    other => {
                        self.sub.clear();
                        self.on_command(other, data)
                    }
                },
            };
        }
    }

    fn on_data(&mut self, byte: u8, data: &mut Vec<u8>) -> State {
        match byte {
            IAC => State::Iac,
            0 if self.state == State::CarriageReturn && !self.theirs.binary => State::Data,
            b'\r' => {
                data.push(byte);
                State::CarriageReturn
            }
            _ => {
                data.push(byte);
                State::Data
            }
        }
    }

    fn on_command(&mut self, byte: u8, data: &mut Vec<u8>) -> State {
        match byte {
            IAC => {
                data.push(IAC);
                State::Data
            }
            WILL | WONT | DO | DONT => State::Verb(byte),
            SB => {
                self.sub.clear();
                self.sub_overflow = false;
                State::Sub
            }
            // NOP, GA, DM, AYT...: nothing that a client has to act on.
            _ => State::Data,
        }
    }

    fn on_sub(&mut self, byte: u8) {
        if self.sub.len() < MAX_SUB {
            self.sub.push(byte);
        } else {
            self.sub_overflow = true;
        }
    }

    fn negotiate(&mut self, verb: u8, option: u8) {
        let on = matches!(verb, WILL | DO);
        let about_them = matches!(verb, WILL | WONT);
        let supported = if about_them {
            matches!(option, BINARY | ECHO | SUPPRESS_GO_AHEAD)
        } else {
            matches!(option, BINARY | SUPPRESS_GO_AHEAD | TERMINAL_TYPE | NAWS)
        };
        let (side, yes, no) = if about_them { (&mut self.theirs, DO, DONT) } else { (&mut self.ours, WILL, WONT) };
        if !supported {
            // Refusing again what is off already is not an answer but an echo: only "on" deserves one.
            if on {
                self.answer(no, option);
            }
            return;
        }
        let Some(flag) = side.get(option) else { return };
        if *flag == on {
            return;
        }
        *flag = on;
        self.answer(if on { yes } else { no }, option);
        if on && verb == DO && option == NAWS {
            self.push_size();
        }
    }

    fn answer(&mut self, verb: u8, option: u8) {
        if self.answers < MAX_ANSWERS {
            self.answers += 1;
            self.replies.extend_from_slice(&[IAC, verb, option]);
        }
    }

    fn sub_done(&mut self) {
        let sub = std::mem::take(&mut self.sub);
        if !self.sub_overflow
            && sub == [TERMINAL_TYPE, TERMINAL_TYPE_SEND]
            && self.ours.terminal_type
            && self.answers < MAX_ANSWERS
        {
            // The same name again and again tells a server that cycles through types that the list ends here.
            self.answers += 1;
            self.replies.extend_from_slice(&[IAC, SB, TERMINAL_TYPE, TERMINAL_TYPE_IS]);
            self.replies.extend_from_slice(self.term.as_bytes());
            self.replies.extend_from_slice(&[IAC, SE]);
        }
    }

    /// Remembers the window size and, when the server asked for it, tells it.
    pub fn resize(&mut self, cols: u16, rows: u16) {
        if self.size != (cols, rows) {
            self.size = (cols, rows);
            if self.ours.naws {
                self.push_size();
            }
        }
    }

    fn push_size(&mut self) {
        let (cols, rows) = self.size;
        self.replies.extend_from_slice(&[IAC, SB, NAWS]);
        for byte in cols.to_be_bytes().into_iter().chain(rows.to_be_bytes()) {
            self.replies.push(byte);
            if byte == IAC {
                self.replies.push(IAC);
            }
        }
        self.replies.extend_from_slice(&[IAC, SE]);
    }

    /// What has to be written to the wire; empties the queue.
    pub fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.replies)
    }

    /// True when [`Codec::take_replies`] has something.
    pub fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }

    /// True when the server echoes what is typed, i.e. the user's terminal must not.
    pub fn server_echoes(&self) -> bool {
        self.theirs.echo
    }

    /// Data as it goes on the wire: 255 is doubled, and unless we agreed on BINARY a carriage return that no line feed
    /// follows gets its NUL.
    pub fn encode(&self, data: &[u8], wire: &mut Vec<u8>) {
        wire.reserve(data.len() + 8);
        let mut rest = data.iter().copied().peekable();
        while let Some(byte) = rest.next() {
            wire.push(byte);
            match byte {
                IAC => wire.push(IAC),
                b'\r' if !self.ours.binary && rest.peek() != Some(&b'\n') => wire.push(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(codec: &mut Codec, wire: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        codec.receive(wire, &mut data);
        data
    }

    #[test]
    fn data_and_commands_are_told_apart_at_any_split() {
        let wire = b"a\xff\xffb\r\0c\r\nd\xff\xf1e\xff\xfa\x18\x01\xff\xf0f\xff\xfd\x18g";
        let mut whole = Codec::new("xterm", 80, 24);
        let expected = received(&mut whole, wire);
        assert_eq!(expected, b"a\xffb\rc\r\ndefg");
        for split in 0..wire.len() {
            let mut codec = Codec::new("xterm", 80, 24);
            let mut data = received(&mut codec, &wire[..split]);
            data.extend(received(&mut codec, &wire[split..]));
            assert_eq!(data, expected, "split at {split}");
            assert_eq!(codec.take_replies(), whole.replies);
        }
    }

    #[test]
    fn agrees_to_what_it_knows_and_refuses_the_rest_once() {
        let mut c = Codec::new("xterm", 80, 24);
        received(&mut c, &[IAC, WILL, ECHO, IAC, WILL, SUPPRESS_GO_AHEAD, IAC, DO, TERMINAL_TYPE, IAC, DO, 36]);
        assert_eq!(
            c.take_replies(),
            [IAC, DO, ECHO, IAC, DO, SUPPRESS_GO_AHEAD, IAC, WILL, TERMINAL_TYPE, IAC, WONT, 36]
        );
        assert!(c.server_echoes());
        // A confirmation of what holds already is never answered.
        received(&mut c, &[IAC, WILL, ECHO, IAC, DO, TERMINAL_TYPE, IAC, DONT, NAWS, IAC, WONT, BINARY, IAC, DONT, 36]);
        assert!(c.take_replies().is_empty());
        received(&mut c, &[IAC, SB, TERMINAL_TYPE, TERMINAL_TYPE_SEND, IAC, SE]);
        assert_eq!(c.take_replies(), [&[IAC, SB, 24, 0][..], b"xterm", &[IAC, SE]].concat());
    }

    #[test]
    fn window_size_is_told_when_asked_and_escaped() {
        let mut c = Codec::new("xterm", 80, 24);
        c.resize(255, 300);
        assert!(c.take_replies().is_empty());
        received(&mut c, &[IAC, DO, NAWS]);
        assert_eq!(c.take_replies(), [IAC, WILL, NAWS, IAC, SB, NAWS, 0, 255, 255, 1, 44, IAC, SE]);
        c.resize(100, 30);
        assert_eq!(c.take_replies(), [IAC, SB, NAWS, 0, 100, 0, 30, IAC, SE]);
        c.resize(100, 30);
        assert!(c.take_replies().is_empty());
    }

    #[test]
    fn a_negotiation_loop_and_an_endless_subnegotiation_end() {
        let mut c = Codec::new("xterm", 80, 24);
        for _ in 0..100_000 {
            received(&mut c, &[IAC, WILL, ECHO, IAC, WONT, ECHO, IAC, DO, 99, IAC, SB, TERMINAL_TYPE, 1, IAC, SE]);
        }
        assert!(c.take_replies().len() <= MAX_ANSWERS as usize * 50);
        received(&mut c, &[IAC, SB]);
        received(&mut c, &vec![7; 1 << 20]);
        assert!(c.sub.len() <= MAX_SUB);
        assert_eq!(received(&mut c, &[IAC, SE, b'x']), b"x");
    }

    #[test]
    fn typed_data_is_escaped() {
        let mut c = Codec::new("xterm", 80, 24);
        let encoded = |c: &Codec, data: &[u8]| {
            let mut wire = Vec::new();
            c.encode(data, &mut wire);
            wire
        };
        assert_eq!(encoded(&c, b"ls\r"), b"ls\r\0");
        assert_eq!(encoded(&c, b"ls\r\n\xff"), b"ls\r\n\xff\xff");
        received(&mut c, &[IAC, DO, BINARY]);
        assert_eq!(encoded(&c, b"ls\r"), b"ls\r");
    }

    #[test]
    fn a_terminal_name_cannot_smuggle_commands() {
        let mut c = Codec::new("a\u{ff}\n\0b", 80, 24);
        received(&mut c, &[IAC, DO, TERMINAL_TYPE, IAC, SB, TERMINAL_TYPE, 1, IAC, SE]);
        assert!(c.take_replies().ends_with(&[IAC, SB, 24, 0, b'a', b'b', IAC, SE]));
    }
}
