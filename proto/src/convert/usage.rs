//! What a worker uses of its machine.

use gavel_core::work::{DeviceUse, Memory};

use super::Malformed;
use crate::v1;

impl From<DeviceUse> for v1::DeviceUse {
    fn from(used: DeviceUse) -> Self {
        Self {
            device: used.device.to_string(),
            memory: used.memory.map(|memory| v1::Memory {
                used_bytes: memory.used_bytes,
                total_bytes: memory.total_bytes,
            }),
            busy_percent: used.busy_percent.map(u32::from),
        }
    }
}

impl TryFrom<v1::DeviceUse> for DeviceUse {
    type Error = Malformed;

    fn try_from(used: v1::DeviceUse) -> Result<Self, Malformed> {
        Ok(Self {
            device: used.device.parse().map_err(|_| Malformed::Device {
                field: "DeviceUse.device",
            })?,
            memory: used.memory.map(|memory| Memory {
                used_bytes: memory.used_bytes,
                total_bytes: memory.total_bytes,
            }),
            busy_percent: used.busy_percent.map(busy).transpose()?,
        })
    }
}

fn busy(percent: u32) -> Result<u8, Malformed> {
    let read = u8::try_from(percent).ok().filter(|percent| *percent <= 100);
    read.ok_or(Malformed::Range {
        field: "DeviceUse.busy_percent",
        found: percent.into(),
    })
}
