//! The asset's end of an interactive session or a command: SSH and telnet look alike from here, and text of assets that
//! speak GBK is UTF-8 on our side. What must not be here: what is done with the bytes.

use std::borrow::Cow;

use bytes::Bytes;
use encoding_rs::{Decoder, Encoder, GBK};
use gatehouse_dial::telnet::{TelnetPeer, TelnetReader, TelnetWriter};
use gatehouse_dial::{SshChannel, SshReader, SshWriter};
use gatehouse_model::asset::Charset;
use gatehouse_session::Stop;
use parking_lot::Mutex;
use russh::{ChannelMsg, Sig};

/// What the asset does.
pub(crate) enum AssetEvent {
    Data(Bytes),
    /// Standard error and the like, by its code.
    Extended(u32, Bytes),
    ExitStatus(u32),
    ExitSignal {
        signal: Sig,
        core_dumped: bool,
        message: String,
    },
    Eof,
}

/// The asset is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the asset closed the connection")]
pub(crate) struct AssetGone;

pub(crate) struct AssetReader {
    from: From,
    decoder: Option<Decoder>,
    lost: bool,
}

enum From {
    Ssh(SshReader),
    Telnet(TelnetReader),
}

pub(crate) struct AssetWriter {
    to: To,
    encoder: Option<Mutex<Encoder>>,
}

enum To {
    Ssh(SshWriter),
    Telnet(TelnetWriter),
}

fn gbk(charset: Charset) -> bool {
    charset == Charset::Gbk
}

pub(crate) fn ssh(channel: SshChannel, charset: Charset) -> (AssetReader, AssetWriter) {
    let (read, write) = channel.split();
    pair(From::Ssh(read), To::Ssh(write), charset)
}

pub(crate) fn telnet(peer: TelnetPeer, charset: Charset) -> (AssetReader, AssetWriter) {
    let (read, write) = peer.split();
    pair(From::Telnet(read), To::Telnet(write), charset)
}

fn pair(from: From, to: To, charset: Charset) -> (AssetReader, AssetWriter) {
    let decoder = gbk(charset).then(|| GBK.new_decoder_without_bom_handling());
    let encoder = gbk(charset).then(|| Mutex::new(GBK.new_encoder()));
    (AssetReader { from, decoder, lost: false }, AssetWriter { to, encoder })
}

impl AssetReader {
    /// The next event; `None` when the asset is gone. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<AssetEvent> {
        loop {
            let event = match &mut self.from {
                From::Telnet(telnet) => match telnet.read().await {
                    Ok(data) if !data.is_empty() => AssetEvent::Data(data),
                    end => {
                        self.lost = end.is_err();
                        return None;
                    }
                },
                From::Ssh(ssh) => {
                    let Some(message) = ssh.wait().await else {
                        self.lost = true;
                        return None;
                    };
                    match message {
                        ChannelMsg::Data { data } => AssetEvent::Data(data),
                        ChannelMsg::ExtendedData { data, ext } => AssetEvent::Extended(ext, data),
                        ChannelMsg::ExitStatus { exit_status } => AssetEvent::ExitStatus(exit_status),
                        ChannelMsg::ExitSignal { signal_name: signal, core_dumped, error_message: message, .. } => {
                            AssetEvent::ExitSignal { signal, core_dumped, message }
                        }
                        ChannelMsg::Eof => AssetEvent::Eof,
                        ChannelMsg::Close => return None,
                        _ => continue,
                    }
                }
            };
            return Some(match event {
                AssetEvent::Data(data) => match self.decode(data) {
                    // Only the first half of a character so far.
                    data if data.is_empty() => continue,
                    data => AssetEvent::Data(data),
                },
                other => other,
            });
        }
    }

    /// After the end: the connection broke, the asset did not close it.
    pub(crate) fn lost(&self) -> Option<Stop> {
        self.lost.then(|| Stop { reason: "the connection to the asset was lost".to_owned() })
    }

    fn decode(&mut self, data: Bytes) -> Bytes {
        let Some(decoder) = &mut self.decoder else { return data };
        let mut text = String::with_capacity(decoder.max_utf8_buffer_length(data.len()).unwrap_or(data.len() * 3 + 8));
        // The buffer has room for everything, so this takes all of it.
        let _ = decoder.decode_to_string(&data, &mut text, false);
        Bytes::from(text)
    }
}

impl AssetWriter {
    /// What the user sends. Waits for the asset.
    pub(crate) async fn data(&self, data: Bytes) -> Result<(), AssetGone> {
        let data = self.encode(data);
        match &self.to {
            To::Ssh(ssh) => ssh.data_bytes(data).await.map_err(|_| AssetGone),
            To::Telnet(telnet) => telnet.write(&data).await.map_err(|_| AssetGone),
        }
    }

    fn encode(&self, data: Bytes) -> Bytes {
        let Some(encoder) = &self.encoder else { return data };
        let text: Cow<'_, str> = String::from_utf8_lossy(&data);
        let mut encoder = encoder.lock();
        let room = encoder.max_buffer_length_from_utf8_if_no_unmappables(text.len());
        let mut out = Vec::with_capacity(room.unwrap_or(text.len() * 2).saturating_add(64));
        let mut rest = text.as_ref();
        loop {
            let (result, read, _) = encoder.encode_from_utf8_to_vec(rest, &mut out, false);
            rest = rest.get(read..).unwrap_or("");
            match result {
                encoding_rs::CoderResult::InputEmpty => return Bytes::from(out),
                encoding_rs::CoderResult::OutputFull => out.reserve(rest.len() * 2 + 64),
            }
        }
    }

    pub(crate) async fn resize(&self, cols: u16, rows: u16) -> Result<(), AssetGone> {
        match &self.to {
            To::Ssh(ssh) => ssh.window_change(u32::from(cols), u32::from(rows), 0, 0).await.map_err(|_| AssetGone),
            To::Telnet(telnet) => telnet.resize(cols, rows).await.map_err(|_| AssetGone),
        }
    }

    pub(crate) async fn signal(&self, signal: Sig) -> Result<(), AssetGone> {
        match &self.to {
            To::Ssh(ssh) => ssh.signal(signal).await.map_err(|_| AssetGone),
            // Telnet has no signals but BREAK, which clients send in the data.
            To::Telnet(_) => Ok(()),
        }
    }

    pub(crate) async fn eof(&self) -> Result<(), AssetGone> {
        match &self.to {
            To::Ssh(ssh) => ssh.eof().await.map_err(|_| AssetGone),
            To::Telnet(telnet) => telnet.shutdown().await.map_err(|_| AssetGone),
        }
    }

    pub(crate) async fn close(&self) {
        // Closed already is as good.
        let _ = match &self.to {
            To::Ssh(ssh) => ssh.close().await.map_err(|_| AssetGone),
            To::Telnet(telnet) => telnet.shutdown().await.map_err(|_| AssetGone),
        };
    }
}
