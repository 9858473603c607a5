//! A hand in xenstore.

use super::order::StoreOrder;
use libgnt::Platform;
use pv_xenstore::{Client, Error, Permission};

/// A connection, and what was made over it, which goes with it.
#[derive(Debug)]
pub(super) struct StoreHand {
    client: Client,
    made: Vec<String>,
}

/// Nodes that are remembered to be removed. More than any rule makes.
const MADE: usize = 1024;

impl StoreHand {
    pub fn new(platform: &dyn Platform) -> pv_xenstore::Result<StoreHand> {
        Ok(StoreHand {
            client: Client::connect(platform)?,
            made: Vec::new(),
        })
    }

    pub fn perform(&mut self, order: StoreOrder) -> pv_xenstore::Result<Vec<u8>> {
        match order {
            StoreOrder::Read(path) => return self.client.read(&path),
            StoreOrder::Write(path, value) => {
                if self.made.len() == MADE {
                    let why = format!("a hand writes at most {MADE} nodes before it forgets them");
                    return Err(Error::Invalid(why));
                }
                self.client.write(&path, value)?;
                self.made.push(path);
            }
            StoreOrder::Rm(path) => self.client.rm(&path)?,
            StoreOrder::SetPerms(path, perms) => {
                let parsed: Result<Vec<Permission>, _> = perms.iter().map(|p| p.parse()).collect();
                let perms = parsed.map_err(|error| Error::Invalid(error.to_string()))?;
                self.client.set_perms(&path, &perms)?;
            }
        }
        Ok(Vec::new())
    }
}

impl Drop for StoreHand {
    fn drop(&mut self) {
        for path in &self.made {
            // Gone with a parent, or with its owner: as good.
            let _ = self.client.rm(path);
        }
    }
}
