//! The first frames of a tunnel: between nodes on a stream of `pollen-bulk/1`, and of a local client on
//! `call.sock` (docs/internals/seam.md#tunnels).

use crate::{
    Id, WireError,
    call::{MAX_NAME, MAX_TEXT, cut},
    fetch::FetchRequest,
    reader::Reader,
    writer::Writer,
};

/// The kind that OPEN says first. A content request begins with 32 bytes instead.
const OPEN: u8 = 1;
/// The kind of an OPEN for a guest: a provider that does not know it must not open.
const OPEN_FOR: u8 = 2;
/// Flag: what the stream carries are datagrams.
const DATAGRAMS: u8 = 1;
/// Flag: the mark of a client's socket follows. Who does not know it reads on.
const MARKED: u8 = 2;
/// Fields of OPEN of a stream, of a session of datagrams, of a guest, and of a marked client.
const FIELDS: u32 = 3;
const OF_SESSION: u32 = 4;
const OF_GUEST: u32 = 4;
const OF_MARK: u32 = 4;

/// What a local client that wants a tunnel sends first; its first byte tells it from HTTP.
pub const PREFACE: [u8; 8] = *b"\0pln-t1\n";

/// Asks for a tunnel to a service. The bytes of the client follow at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open<'a> {
    /// The service.
    pub service: &'a str,
    /// The number of the session when it carries datagrams: the opener's, once a connection.
    pub session: Option<u64>,
    /// Of a stream that a guest asks for: the member that published its seed. It must be let in as
    /// the opener must.
    pub publisher: Option<Id>,
    /// Of a stream of a client of a listener: the mark of its socket, so that a provider knows one of
    /// its own.
    pub mark: Option<Id>,
}

impl<'a> Open<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match (self.session, &self.publisher, &self.mark) {
            (None, Some(publisher), _) => {
                writer.array(OF_GUEST).uint(OPEN_FOR).str(self.service).uint(0u8).bytes(publisher)
            }
            (None, None, Some(mark)) => {
                writer.array(OF_MARK).uint(OPEN).str(self.service).uint(MARKED).bytes(mark)
            }
            (None, None, None) => writer.array(FIELDS).uint(OPEN).str(self.service).uint(0u8),
            (Some(session), ..) => {
                writer.array(OF_SESSION).uint(OPEN).str(self.service).uint(DATAGRAMS).uint(session)
            }
        };
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let fields = reader.array(FIELDS)?;
        let kind = reader.uint::<u8>("kind")?;
        if kind != OPEN && kind != OPEN_FOR {
            return Err(WireError::Shape("kind"));
        }
        let service = reader.str("service", MAX_NAME)?;
        let flags: u64 = reader.uint("flags")?;
        if kind == OPEN_FOR {
            if fields < OF_GUEST {
                return Err(WireError::Shape("publisher"));
            }
            let publisher = Some(reader.id("publisher")?);
            return Ok(Self { service, session: None, publisher, mark: None });
        }
        let is_marked = flags & u64::from(DATAGRAMS | MARKED) == u64::from(MARKED);
        if is_marked && fields >= OF_MARK {
            let mark = Some(reader.id("mark")?);
            return Ok(Self { service, session: None, publisher: None, mark });
        }
        let session = match flags & u64::from(DATAGRAMS) {
            0 => None,
            _ if fields < OF_SESSION => return Err(WireError::Shape("session")),
            // What a QUIC varint holds.
            _ => Some(reader.uint("session")?).filter(|session: &u64| *session < 1 << 62),
        };
        if flags & u64::from(DATAGRAMS) != 0 && session.is_none() {
            return Err(WireError::Limit("session"));
        }
        Ok(Self { service, session, publisher: None, mark: None })
    }
}

/// The first frame of a stream of `pollen-bulk/1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked<'a> {
    /// Content.
    Fetch(FetchRequest<'a>),
    /// A tunnel.
    Open(Open<'a>),
}

impl<'a> Asked<'a> {
    /// Reads the body of a frame: an integer ahead is a tunnel, bytes are content.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        reader.array(1)?;
        match reader.uint::<u64>("kind") {
            Err(WireError::Shape(_)) => FetchRequest::decode(body).map(Self::Fetch),
            _ => Open::decode(body).map(Self::Open),
        }
    }
}

/// The answer to OPEN, and what a client of `call.sock` is answered. All empty: the tunnel is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Opened<'a> {
    /// Of the table of errors; empty when it is open.
    pub slug: &'a str,
    /// One line.
    pub reason: &'a str,
    /// One line.
    pub remedy: &'a str,
}

impl<'a> Opened<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        Writer::new(out).array(3).str(self.slug).str(cut(self.reason)).str(cut(self.remedy));
    }

    /// The same with the node at the other end, for a client of `call.sock`; none when refused.
    pub fn encode_at(&self, node: Option<&Id>, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(4).str(self.slug).str(cut(self.reason)).str(cut(self.remedy));
        match node {
            Some(node) => writer.bytes(node),
            None => writer.nil(),
        };
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        reader.array(3)?;
        Self::read(&mut reader)
    }

    /// Reads what a client of `call.sock` is answered.
    pub fn decode_at(body: &'a [u8]) -> Result<(Self, Option<Id>), WireError> {
        let mut reader = Reader::new(body);
        reader.array(4)?;
        let opened = Self::read(&mut reader)?;
        let node = if reader.nil() { None } else { Some(reader.id("node")?) };
        Ok((opened, node))
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            slug: reader.str("slug", MAX_NAME)?,
            reason: reader.str("reason", MAX_TEXT)?,
            remedy: reader.str("remedy", MAX_TEXT)?,
        })
    }
}

/// What a client of `call.sock` asks for behind [`PREFACE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want<'a> {
    /// The service.
    pub service: &'a str,
    /// The only node that is asked for it; else whoever serves it.
    pub node: Option<Id>,
}

impl<'a> Want<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(2).str(self.service);
        match &self.node {
            Some(node) => writer.bytes(node),
            None => writer.nil(),
        };
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        reader.array(2)?;
        let service = reader.str("service", MAX_NAME)?;
        let node = if reader.nil() { None } else { Some(reader.id("node")?) };
        Ok(Self { service, node })
    }
}
