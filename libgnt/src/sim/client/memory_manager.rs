//! Holders: what is a GPU driver on a real kernel.

use super::SimPlatform;
use super::connection::lock;
use super::mappings::{map_pieces, pieces};
use crate::error::{Error, Result};
use crate::platform::{HoldId, HoldKind, SimMemoryManager};
use crate::shm::SharedPages;
use crate::sim::wire::{Reply, Request};
use crate::types::{Access, PAGE_SIZE};
use rustix::io::Errno;

const DEVICE: &str = "memory manager (simulated)";

impl SimMemoryManager for SimPlatform {
    fn pin(
        &self,
        pages: &SharedPages,
        first_page: usize,
        count: usize,
        kind: HoldKind,
    ) -> Result<HoldId> {
        let refuse = |errno, detail: &str| {
            Err(Error::device(
                DEVICE,
                "pin",
                errno,
                format!("{count} pages: {detail}"),
            ))
        };
        if count == 0 {
            return refuse(Errno::INVAL, "nothing to pin");
        }
        if first_page > pages.pages() || count > pages.pages() - first_page {
            return refuse(Errno::FAULT, "outside the mapping");
        }
        let address = pages.address() + first_page * PAGE_SIZE;
        let Some((start, mapping)) = lock(&self.client.mappings).at(address) else {
            return refuse(Errno::FAULT, "not mapped from gntdev");
        };
        let place = |page: usize| {
            u32::try_from(page).map_err(|_| Error::device(DEVICE, "pin", Errno::FAULT, ""))
        };
        let request = Request::Pin {
            vma: mapping.vma,
            first_page: place((address - start) / PAGE_SIZE)?,
            pages: place(count)?,
            kind,
        };
        let answer = self.client.call(DEVICE, "pin", request)?;
        match answer.reply {
            Reply::Hold { hold } => Ok(hold),
            _ => Err(answer.unexpected()),
        }
    }

    fn attach(&self, hold: HoldId) -> Result<SharedPages> {
        let mut answer = self
            .client
            .call(DEVICE, "attach", Request::HoldAttach { hold })?;
        let (_, pieces) = pieces(&mut answer)?;
        map_pieces(&mut answer, &pieces, Access::ReadOnly)
    }

    fn release(&self, hold: HoldId) -> Result<()> {
        let request = Request::HoldRelease { hold };
        self.client
            .call_memory_manager(DEVICE, "release", request)?
            .done()
    }
}
