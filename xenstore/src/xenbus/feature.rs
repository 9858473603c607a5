//! What the ends of a device say to each other: nodes of a directory, and features with what they mean
//! where they are missing. Which ones there are is the protocol's.

use crate::client::Client;
use crate::error::Error;
use crate::value;
use std::fmt::Debug;

/// A node, as it is written: its name in the directory, and its value.
pub type Node = (&'static str, String);

/// What a node of the other end's says that no protocol allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNode {
    /// It is not there.
    #[error("{path} is missing; its end has to publish it first")]
    Missing {
        /// Where it should be.
        path: String,
    },
    /// It is there, but makes no sense.
    #[error("{path} is \"{value}\", which is {what}")]
    Bad {
        /// Where it is.
        path: String,
        /// What it says, as [`value::shown`].
        value: String,
        /// What is wrong with that.
        what: &'static str,
    },
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// xenstore did not do its part: nobody's fault, and tried again if it passes.
    #[error(transparent)]
    Store(#[from] Error),
    /// A node is missing or bad: the other end's fault, and fatal for the connection.
    #[error(transparent)]
    Node(#[from] BadNode),
    /// The nodes are good one by one, but not together, or not for this end.
    #[error("{0}")]
    Refused(String),
}

/// What xenstore failed in is tried again; what the other end has wrong is not.
pub(super) fn settled<T>(read: Result<T, ReadError>) -> Result<Result<T, String>, Error> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(ReadError::Store(error)) => Err(error),
        Err(other) => Ok(Err(other.to_string())),
    }
}

/// What an end has published: its directory, to be read.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    client: &'a Client,
    directory: &'a str,
}

impl<'a> Published<'a> {
    /// The nodes of a directory.
    pub fn new(client: &'a Client, directory: &'a str) -> Published<'a> {
        Published { client, directory }
    }

    /// The connection: for what is elsewhere.
    pub fn client(&self) -> &'a Client {
        self.client
    }

    /// The directory.
    pub fn directory(&self) -> &'a str {
        self.directory
    }

    /// A node's value; `None` if it is not there, or not for this domain's eyes.
    ///
    /// # Errors
    /// The connection's.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.client.read_unless_gone(&self.path(name))
    }

    /// A node that has to be there.
    ///
    /// # Errors
    /// [`BadNode`]; the connection's.
    pub fn required<T: FeatureValue>(&self, name: &str) -> Result<T, ReadError> {
        match self.read(name)? {
            Some(value) => self.parsed(name, &value),
            None => Err(BadNode::Missing {
                path: self.path(name),
            }
            .into()),
        }
    }

    /// What this end says of a feature.
    ///
    /// # Errors
    /// [`BadNode::Bad`]; the connection's.
    pub fn feature<T: FeatureValue>(&self, feature: &Feature<T>) -> Result<T, ReadError> {
        match self.read(feature.name)? {
            Some(value) => self.parsed(feature.name, &value),
            None => Ok(feature.missing),
        }
    }

    fn parsed<T: FeatureValue>(&self, name: &str, value: &[u8]) -> Result<T, ReadError> {
        T::parse(value).ok_or_else(|| {
            let bad = BadNode::Bad {
                path: self.path(name),
                value: value::shown(value),
                what: T::NOT,
            };
            bad.into()
        })
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.directory)
    }
}

/// What a node can hold.
pub trait FeatureValue: Copy + Debug + Ord {
    /// What a value is that cannot be read as one.
    const NOT: &'static str;

    /// From a node's value.
    fn parse(value: &[u8]) -> Option<Self>;

    /// As it is written.
    fn text(self) -> String;
}

impl FeatureValue for bool {
    const NOT: &'static str = "neither 0 nor 1";

    fn parse(value: &[u8]) -> Option<bool> {
        value::boolean(value)
    }

    fn text(self) -> String {
        u8::from(self).to_string()
    }
}

macro_rules! numbers {
    ($($number:ty, $not:literal;)*) => {$(
        impl FeatureValue for $number {
            const NOT: &'static str = $not;

            fn parse(value: &[u8]) -> Option<$number> {
                value::number(value)
            }

            fn text(self) -> String {
                self.to_string()
            }
        }
    )*};
}

numbers! {
    u16, "no number of 16 bits";
    u32, "no number of 32 bits";
    u64, "no number of 64 bits";
}

/// Something that an end may offer, and the other take: 0 or 1, or the most of something (a ring's
/// pages, queues, segments).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature<T> {
    name: &'static str,
    missing: T,
}

impl<T: FeatureValue> Feature<T> {
    /// A node's name, and what it means that an end has none.
    pub const fn new(name: &'static str, missing: T) -> Feature<T> {
        Feature { name, missing }
    }

    /// The node's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The node that says so.
    pub fn says(&self, value: T) -> Node {
        (self.name, value.text())
    }

    /// What both can: the lesser of what this end can do and of what the other says.
    ///
    /// # Errors
    /// [`BadNode::Bad`]; the connection's.
    pub fn agree(&self, ours: T, theirs: &Published<'_>) -> Result<T, ReadError> {
        Ok(ours.min(theirs.feature(self)?))
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;
    use crate::ServerHandle;
    use libgnt::DomId;
    use std::os::unix::net::UnixStream;

    const FLAG: Feature<bool> = Feature::new("feature-flag", false);
    const MOST: Feature<u32> = Feature::new("max-things", 1);

    #[test]
    fn what_is_missing_has_a_meaning_and_what_is_bad_is_told_with_its_path() {
        let server = ServerHandle::start(Default::default()).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        server.attach(DomId::DOM0, theirs).unwrap();
        let client = Client::from_stream(ours.into()).unwrap();
        let there = Published::new(&client, "/there");
        assert!(!FLAG.agree(true, &there).unwrap());
        assert_eq!(MOST.agree(8, &there).unwrap(), 1);
        let missing = there.required::<u32>("max-things").unwrap_err();
        assert_eq!(
            missing.to_string(),
            "/there/max-things is missing; its end has to publish it first"
        );
        for (name, value) in [FLAG.says(true), MOST.says(4)] {
            client.write(&format!("/there/{name}"), value).unwrap();
        }
        assert!(FLAG.agree(true, &there).unwrap());
        assert!(!FLAG.agree(false, &there).unwrap());
        assert_eq!(MOST.agree(8, &there).unwrap(), 4);
        assert_eq!(MOST.agree(2, &there).unwrap(), 2);
        client.write("/there/max-things", "many").unwrap();
        let bad = MOST.agree(8, &there).unwrap_err();
        assert_eq!(
            bad.to_string(),
            "/there/max-things is \"many\", which is no number of 32 bits"
        );
        server.stop();
    }
}
