//! `CodeLocation`: the address of code as a module and an offset.

use crate::error::{Error, ErrorKind, Result};
use crate::sys::modules::{self, ModuleId};

/// The location of code: its module, and the offset from the address where that module is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct CodeLocation {
    module: ModuleId,
    offset: u64,
}

impl CodeLocation {
    /// Bytes on the wire.
    pub(crate) const SIZE: usize = 16;

    pub(super) fn of(address: usize) -> Result<Self> {
        let program = modules::program();
        if let Some(offset) = program.offset_of(address) {
            return Ok(Self {
                module: program.id,
                offset,
            });
        }
        let module = modules::containing(address);
        let location = module.and_then(|module| Some((module.id, module.offset_of(address)?)));
        let (module, offset) = location.ok_or_else(|| {
            err_unknown_function(
                "the function is in no loaded module, so no other process can find it",
            )
        })?;
        Ok(Self { module, offset })
    }

    pub(super) fn address(self) -> Result<usize> {
        if self.module == ModuleId::PROGRAM {
            return modules::program()
                .address_of(self.offset)
                .ok_or_else(|| err_unknown_function("the function's address holds no code"));
        }
        let module = modules::with_id(self.module).ok_or_else(|| {
            err_unknown_function("the function's module is not loaded in the worker")
        })?;
        module
            .address_of(self.offset)
            .ok_or_else(|| err_unknown_function("the function's address holds no code"))
    }

    /// Returns the offset if the code is in the program and the offset fits 32 bits.
    pub(super) fn program_offset(self) -> Option<u32> {
        let offset = u32::try_from(self.offset).ok()?;
        (self.module == ModuleId::PROGRAM).then_some(offset)
    }

    pub(super) fn in_program(offset: u32) -> Self {
        Self {
            module: ModuleId::PROGRAM,
            offset: offset.into(),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&self.module.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let (module, offset) = bytes.split_at(8);
        let word = |half: &[u8]| u64::from_le_bytes(half.try_into().expect("half of 16 bytes"));
        Self {
            module: ModuleId(word(module)),
            offset: word(offset),
        }
    }
}

fn err_unknown_function(message: &str) -> Error {
    Error::new(ErrorKind::UnknownFunction, message)
}
