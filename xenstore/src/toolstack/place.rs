//! Where a device's directories are, and how they are found.
//!
//! A front end's directory names its back end's, but the guest can write there: who follows that
//! acts on whatever the guest names (XSA-175, XSA-178). So a toolstack keeps a record of its own,
//! where only its own domain may write:
//!
//! - libxl: `/libxl/F/device/CLASS/N` (`libxl__device_generic_add`, `tools/libs/light/libxl_device.c`);
//! - this one: `/pvpair/F/device/CLASS/N`, of the same form. Not in libxl's place: what is there
//!   libxl takes for its own, lists, and destroys together with the domain's configuration.

use super::class::DeviceClass;
use super::device_id::DeviceId;
use crate::client::{Client, Transaction};
use crate::error::{DeviceTrouble, Error, Result};
use crate::path::home;
use crate::perms::{Permission, Rights};
use crate::value;
use libgnt::DomId;
use std::fmt;

/// A device as its front end's domain knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DeviceKey {
    /// Who uses it.
    pub front_domid: DomId,
    /// Its class; `vbd` but for devices that no kernel is to take.
    pub class: DeviceClass,
    /// Its number.
    pub devid: DeviceId,
}

/// Where a device's directories are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePaths {
    /// `/local/domain/F/device/CLASS/N`
    pub front: String,
    /// `/local/domain/B/backend/CLASS/F/N`
    pub back: String,
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.devid)?;
        if let Some(name) = self.devid.name() {
            write!(f, " ({name})")?;
        }
        if self.class != DeviceClass::VBD {
            write!(f, " of class {}", self.class)?;
        }
        write!(f, " of {}", self.front_domid)
    }
}

impl DeviceKey {
    /// A device of a front end's.
    pub fn new(front_domid: DomId, class: DeviceClass, devid: DeviceId) -> DeviceKey {
        DeviceKey {
            front_domid,
            class,
            devid,
        }
    }

    /// Its directories, with a back end in this domain.
    pub fn paths(&self, back_domid: DomId) -> DevicePaths {
        let DeviceKey {
            front_domid,
            class,
            devid,
        } = self;
        DevicePaths {
            front: format!("{}/device/{class}/{devid}", home(*front_domid)),
            back: format!(
                "{}/backend/{class}/{}/{devid}",
                home(back_domid),
                front_domid.0
            ),
        }
    }

    /// Finds the device's directories; at least one of them is there. `back` is where somebody who
    /// knows says that the back end is; without it the toolstacks' records say it, and where there is
    /// none, the back end has to be in this connection's own domain. Nothing that a guest can write is
    /// believed.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no such device, if nobody says where its back end is, or if a
    /// record says otherwise than `back`; [`Error::Invalid`] if a record makes no sense; the
    /// connection's.
    pub fn locate(&self, client: &Client, back: Option<DomId>) -> Result<DevicePaths> {
        let named = self.paths(match back {
            Some(back) => back,
            None => DomId(client.read_parsed("domid")?),
        });
        let recorded = self.recorded_back(client)?.map(|back| DevicePaths {
            back,
            ..named.clone()
        });
        // The path, not only the domain: libxl has other names than the class for some back ends.
        let agrees = |recorded: &DevicePaths| {
            back.is_none_or(|back| recorded.back.starts_with(&format!("{}/", home(back))))
        };
        if let Some(recorded) = &recorded
            && !agrees(recorded)
            && is_there(client, &recorded.back)?
        {
            return Err(Error::Device {
                trouble: DeviceTrouble::OtherBack,
                text: format!(
                    "the back end of {self} is not at {}: the toolstack's record names {}, which is \
                     there; name no domain, and the record says it",
                    named.back, recorded.back
                ),
            });
        }
        let recorded = recorded.filter(agrees);
        for paths in recorded.iter().chain([&named]) {
            if is_there(client, &paths.back)? {
                return Ok(paths.clone());
            }
        }
        match recorded {
            _ if !is_there(client, &named.front)? => {
                Err(self.not_there(recorded.as_ref().unwrap_or(&named)))
            }
            // The back end's half went with its domain.
            Some(recorded) => Ok(recorded),
            None => Err(self.back_unknown(client, &named)),
        }
    }

    fn not_there(&self, DevicePaths { front, back }: &DevicePaths) -> Error {
        Error::Device {
            trouble: DeviceTrouble::NotThere,
            text: format!(
                "{self} is not in xenstore: neither {front} nor {back} is there; create it first"
            ),
        }
    }

    fn back_unknown(&self, client: &Client, DevicePaths { front, back }: &DevicePaths) -> Error {
        let told = client.try_read(&format!("{front}/backend-id"));
        let told: Option<u16> = told.ok().flatten().and_then(|id| value::number(&id));
        let told = told.map_or(String::new(), |id| {
            format!(
                "; the front end's own node says {}, and the guest may have written that",
                DomId(id)
            )
        });
        Error::Device {
            trouble: DeviceTrouble::BackUnknown,
            text: format!(
                "{front} is there, but the back end of {self} is not found: no toolstack has left a record \
                 of it, and there is no {back}; name the back end's domain, or, if the back end's half is \
                 gone for good, remove the front end's with `xenstore-rm {front}`{told}"
            ),
        }
    }

    pub(super) fn own_record(&self) -> String {
        self.record_below("/pvpair")
    }

    pub(super) fn libxl_record(&self) -> String {
        self.record_below("/libxl")
    }

    fn record_below(&self, root: &str) -> String {
        let DeviceKey {
            front_domid,
            class,
            devid,
        } = self;
        format!("{root}/{}/device/{class}/{devid}", front_domid.0)
    }

    /// The back end's directory by the toolstacks' records. One that is there goes before one that
    /// is not: that may be left of an earlier domain of this number.
    fn recorded_back(&self, client: &Client) -> Result<Option<String>> {
        let mut first = None;
        for record in [self.libxl_record(), self.own_record()] {
            let node = format!("{record}/backend");
            let back = match client.read_string(&node) {
                Ok(back) => back,
                // Or not to be seen by other domains than dom0.
                Err(error) if error.is_gone() => continue,
                Err(error) => return Err(error),
            };
            if !self.is_back_of(&back) {
                return Err(Error::Invalid(format!(
                    "the record {node} says \"{}\", which is no back end of {self}; remove the record",
                    value::shown(back.as_bytes())
                )));
            }
            if is_there(client, &back)? {
                return Ok(Some(back));
            }
            first.get_or_insert(back);
        }
        Ok(first)
    }

    /// Is it `/local/domain/B/backend/KIND/F/N` with this front end's numbers? libxl's KIND need not be
    /// the front end's class: `qdisk` serves a `vbd`.
    fn is_back_of(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').collect();
        let ["", "local", "domain", back, "backend", kind, front, devid] = parts[..] else {
            return false;
        };
        back.parse::<u16>().is_ok()
            && kind.parse::<DeviceClass>().is_ok()
            && front == self.front_domid.0.to_string()
            && devid == self.devid.to_string()
    }

    /// Leaves the record, for dom0 only.
    pub(super) fn record(&self, tx: &Transaction<'_>, paths: &DevicePaths) -> Result<()> {
        let record = self.own_record();
        let private = [Permission::new(Rights::None, DomId::DOM0)];
        tx.mkdir(&record)?;
        tx.set_perms(&record, &private)?;
        tx.write(&format!("{record}/frontend"), &paths.front)?;
        tx.write(&format!("{record}/backend"), &paths.back)
    }

    /// The directory that an earlier device's record names, if that is still there.
    pub(super) fn left_behind(&self, tx: &Transaction<'_>) -> Result<Option<String>> {
        for record in [self.libxl_record(), self.own_record()] {
            match tx.read_string(&format!("{record}/backend")) {
                Ok(back) if self.is_back_of(&back) && tx.exists(&back)? => return Ok(Some(back)),
                Ok(_) => {}
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Is there such a node, in this domain's sight?
pub(super) fn is_there(client: &Client, path: &str) -> Result<bool> {
    Ok(client.read_unless_gone(path)?.is_some())
}
