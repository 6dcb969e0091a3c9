//! Questions to nf_tables.

use netlink_packet_core::{NLM_F_DUMP, NLM_F_DUMP_INTR};
use nix::errno::Errno;

use super::chain::{Family, Table};
use super::encoder::{Attributes, GENERIC_HEADER, message, read_comment};
use super::{NftSocket, tables_kind};
use crate::netlink::Error;
use crate::netlink::socket::{receive, send};
use crate::netlink::wire::{Ack, HEADER, NLMSG_DONE, NLMSG_ERROR, attributes, end_of_dump, messages};

const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const TABLE_USE: u16 = 3;
const TABLE_OWNED: u32 = 2;
const TABLE_USERDATA: u16 = 6;
const CHAIN_TABLE: u16 = 1;
const CHAIN_HANDLE: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_USERDATA: u16 = 12;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;
const ELEMENT_USERDATA: u16 = 6;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CHAIN: u16 = 2;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const COMPARE_DATA: u16 = 3;

/// How often a list is read that others change meanwhile (`NLM_F_DUMP_INTR`).
const ATTEMPTS: u32 = 20;

/// A chain that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundChain {
    /// Its name.
    pub name: String,
    /// Its number, never used again.
    pub handle: u64,
    /// Its comment.
    pub comment: String,
}

/// A rule that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundRule {
    /// Its number, never used again.
    pub handle: u64,
    /// Its comment.
    pub comment: String,
    /// The chains it leads to.
    pub leads_to: Vec<String>,
    /// What it compares parts of a packet with: addresses, in bytes, among others.
    pub compares: Vec<Vec<u8>>,
}

/// An element that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundElement {
    /// Its key, as the kernel has it: the last part too filled up to whole words.
    pub key: Vec<u8>,
    /// A map's data; empty for a verdict.
    pub data: Vec<u8>,
    /// The chain its verdict leads to.
    pub leads_to: Option<String>,
    /// Its comment.
    pub comment: String,
}

impl NftSocket {
    /// The comment of a table; none where there is no such table.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn table_comment(&mut self, table: Table<'_>) -> Result<Option<String>, Error> {
        let doing = format!("look up the nftables table {table}");
        let found = self.one(&doing, libc::NFT_MSG_GETTABLE, table, |ask| ask.text(TABLE_NAME, table.name))?;
        Ok(found.map(|found| find(&found, TABLE_USERDATA).map(read_comment).unwrap_or_default()))
    }

    /// How many chains, sets and maps a table has; none where there is no such table. Does not grow with them.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn table_use(&mut self, table: Table<'_>) -> Result<Option<u32>, Error> {
        let doing = format!("look up the nftables table {table}");
        let found = self.one(&doing, libc::NFT_MSG_GETTABLE, table, |ask| ask.text(TABLE_NAME, table.name))?;
        let number = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).unwrap_or_default();
        Ok(found.map(|found| find(&found, TABLE_USE).map(number).unwrap_or_default()))
    }

    /// Whether a table can be changed by the program that made it alone (`NFT_TABLE_F_OWNER`); no where there is none.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn table_has_owner(&mut self, table: Table<'_>) -> Result<bool, Error> {
        let doing = format!("look up the nftables table {table}");
        let found = self.one(&doing, libc::NFT_MSG_GETTABLE, table, |ask| ask.text(TABLE_NAME, table.name))?;
        let flags = found.as_deref().and_then(|found| find(found, TABLE_FLAGS)).and_then(|bytes| bytes.try_into().ok());
        Ok(u32::from_be_bytes(flags.unwrap_or_default()) & TABLE_OWNED != 0)
    }

    /// The names of all tables of a family.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or the tables change each time they are listed.
    pub fn tables(&mut self, family: Family) -> Result<Vec<String>, Error> {
        let doing = format!("list the nftables tables of family {}", family.name());
        let found = self.list(&doing, libc::NFT_MSG_GETTABLE, Table::new(family, ""), |_| {})?;
        Ok(found.iter().filter_map(|table| find(table, TABLE_NAME)).map(text).collect())
    }

    /// A chain by its name; none where it or its table is not.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn chain(&mut self, table: Table<'_>, chain: &str) -> Result<Option<FoundChain>, Error> {
        let doing = format!("look up the chain {chain} of the nftables table {table}");
        let found = self.one(&doing, libc::NFT_MSG_GETCHAIN, table, |ask| {
            ask.text(CHAIN_TABLE, table.name);
            ask.text(CHAIN_NAME, chain);
        })?;
        Ok(found.map(|found| read_chain(&found)))
    }

    /// All chains of a table. The kernel lists those of all tables of the family: not for a hot path.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or the chains change each time they are listed.
    pub fn chains(&mut self, table: Table<'_>) -> Result<Vec<FoundChain>, Error> {
        let doing = format!("list the chains of the nftables table {table}");
        let found = self.list(&doing, libc::NFT_MSG_GETCHAIN, table, |_| {})?;
        let is_of_table = |chain: &&Vec<u8>| find(chain, CHAIN_TABLE).map(text).as_deref() == Some(table.name);
        Ok(found.iter().filter(is_of_table).map(|chain| read_chain(chain)).collect())
    }

    /// The rules of one chain, in their order; none where it is not. Grows with the rules of this chain only.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or the rules change each time they are listed.
    pub fn rules(&mut self, table: Table<'_>, chain: &str) -> Result<Vec<FoundRule>, Error> {
        let doing = format!("list the rules of the chain {chain} of the nftables table {table}");
        let found = self.list(&doing, libc::NFT_MSG_GETRULE, table, |ask| {
            ask.text(RULE_TABLE, table.name);
            ask.text(RULE_CHAIN, chain);
        })?;
        Ok(found.iter().map(|rule| read_rule(rule)).collect())
    }

    /// The element of that key; none where it, or its set, is not.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn element(&mut self, table: Table<'_>, set: &str, key: &[u8]) -> Result<Option<FoundElement>, Error> {
        let doing = format!("look up an element of the set {set} of the nftables table {table}");
        let found = self.one(&doing, libc::NFT_MSG_GETSETELEM, table, |ask| {
            ask.text(ELEMENTS_TABLE, table.name);
            ask.text(ELEMENTS_SET, set);
            ask.nest(ELEMENTS, |list| {
                list.nest(LIST_ELEMENT, |element| element.nest(ELEMENT_KEY, |value| value.bytes(DATA_VALUE, key)));
            });
        })?;
        Ok(found.and_then(|found| read_elements(&found).into_iter().next()))
    }

    /// All elements of a set or map; none where it is not. Grows with their number: not for a hot path.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or the elements change each time they are listed.
    pub fn elements(&mut self, table: Table<'_>, set: &str) -> Result<Vec<FoundElement>, Error> {
        let doing = format!("list the elements of the set {set} of the nftables table {table}");
        let found = self.list(&doing, libc::NFT_MSG_GETSETELEM, table, |ask| {
            ask.text(ELEMENTS_TABLE, table.name);
            ask.text(ELEMENTS_SET, set);
        })?;
        Ok(found.iter().flat_map(|some| read_elements(some)).collect())
    }

    /// The attributes of one object; none when there is none.
    fn one(
        &mut self,
        doing: &str,
        kind: i32,
        table: Table<'_>,
        write: impl FnOnce(&mut Attributes<'_>),
    ) -> Result<Option<Vec<u8>>, Error> {
        match self.ask(doing, kind, 0, table, write) {
            Ok(found) => Ok(found.into_iter().next()),
            // ERANGE: a name longer than any can be.
            Err(error) if matches!(error.errno(), Some(Errno::ENOENT | Errno::ERANGE)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The attributes of all objects that match.
    fn list(
        &mut self,
        doing: &str,
        kind: i32,
        table: Table<'_>,
        write: impl Fn(&mut Attributes<'_>),
    ) -> Result<Vec<Vec<u8>>, Error> {
        for _ in 0..ATTEMPTS {
            match self.ask(doing, kind, NLM_F_DUMP, table, &write) {
                Err(error) if error.errno() == Some(Errno::EINTR) => {}
                Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(Vec::new()),
                answer => return answer,
            }
        }
        Err(Error::Refused { doing: doing.into(), errno: Errno::EINTR, note: " (others keep changing it)".into() })
    }

    fn ask(
        &mut self,
        doing: &str,
        kind: i32,
        flags: u16,
        table: Table<'_>,
        write: impl FnOnce(&mut Attributes<'_>),
    ) -> Result<Vec<Vec<u8>>, Error> {
        let refused = |errno, note| Error::Refused { doing: doing.into(), errno, note };
        let mut buffer = Vec::new();
        let sequence = message(&mut buffer, tables_kind(kind), flags, table.family.header(), write);
        send(&self.socket, &buffer, doing)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            let datagram = receive(&self.socket, doing)?;
            for message in messages(&datagram).filter(|message| message.sequence == sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE => {
                        let failure = end_of_dump(message).or(interrupted.then_some(Errno::EINTR));
                        return failure.map_or(Ok(found), |errno| Err(refused(errno, String::new())));
                    }
                    NLMSG_ERROR => match Ack::read(message).and_then(|ack| Some((ack.errno?, ack.note))) {
                        Some((errno, note)) => return Err(refused(errno, note)),
                        None => return Ok(found),
                    },
                    _ => found.push(message.bytes.get(HEADER + GENERIC_HEADER..).unwrap_or_default().to_owned()),
                }
                if flags & NLM_F_DUMP == 0 {
                    return Ok(found);
                }
            }
        }
    }
}

fn find(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn long(bytes: &[u8]) -> u64 {
    bytes.try_into().map(u64::from_be_bytes).unwrap_or_default()
}

fn read_chain(chain: &[u8]) -> FoundChain {
    FoundChain {
        name: find(chain, CHAIN_NAME).map(text).unwrap_or_default(),
        handle: find(chain, CHAIN_HANDLE).map(long).unwrap_or_default(),
        comment: find(chain, CHAIN_USERDATA).map(read_comment).unwrap_or_default(),
    }
}

fn read_rule(rule: &[u8]) -> FoundRule {
    let expressions = find(rule, RULE_EXPRESSIONS).unwrap_or_default();
    FoundRule {
        handle: find(rule, RULE_HANDLE).map(long).unwrap_or_default(),
        comment: find(rule, RULE_USERDATA).map(read_comment).unwrap_or_default(),
        leads_to: attributes(expressions).filter_map(|(_, expression)| target(expression)).collect(),
        compares: attributes(expressions).filter_map(|(_, expression)| compared(expression)).collect(),
    }
}

/// The chain an expression jumps or goes to.
fn target(expression: &[u8]) -> Option<String> {
    find(expression, EXPRESSION_NAME).map(text).filter(|name| name == "immediate")?;
    verdict_chain(find(find(expression, EXPRESSION_DATA)?, IMMEDIATE_DATA)?)
}

/// What a comparison compares with.
fn compared(expression: &[u8]) -> Option<Vec<u8>> {
    find(expression, EXPRESSION_NAME).map(text).filter(|name| name == "cmp")?;
    find(find(find(expression, EXPRESSION_DATA)?, COMPARE_DATA)?, DATA_VALUE).map(<[u8]>::to_vec)
}

fn verdict_chain(data: &[u8]) -> Option<String> {
    find(find(data, DATA_VERDICT)?, VERDICT_CHAIN).map(text)
}

fn read_elements(message: &[u8]) -> Vec<FoundElement> {
    let value = |data: Option<&[u8]>| data.and_then(|data| find(data, DATA_VALUE)).unwrap_or_default().to_owned();
    let read = |element: &[u8]| FoundElement {
        key: value(find(element, ELEMENT_KEY)),
        data: value(find(element, ELEMENT_DATA)),
        leads_to: find(element, ELEMENT_DATA).and_then(verdict_chain),
        comment: find(element, ELEMENT_USERDATA).map(read_comment).unwrap_or_default(),
    };
    attributes(find(message, ELEMENTS).unwrap_or_default()).map(|(_, element)| read(element)).collect()
}
