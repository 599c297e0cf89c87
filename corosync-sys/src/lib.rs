#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![allow(non_camel_case_types)] // The names are C's.

// This module comes first, because the modules below use its macro.
#[macro_use]
mod library;

mod cmap;
mod corotypes;
mod error;
mod quorum;
mod votequorum;

pub use self::{cmap::*, corotypes::*, error::LoadError, quorum::*, votequorum::*};
