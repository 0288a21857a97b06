//! A disk or a partition into the parts of a Clonezilla image.
//!
//! ```text
//! ReadAt ──Source::read──> table, partitions ──plan──> Planned (a map of used blocks each)
//!                                                        ├─ write_head, seal ──> one file of frames each
//!                                                        └─ side_files, log ───> (name, bytes) each
//! ```
//!
//! Only used blocks are read. Where the files go, and what else may not touch the source meanwhile, is
//! its user's business.

mod error;
mod frames;
mod lists;
mod plan;
mod side_files;
mod source;

pub use error::CaptureError;
pub use frames::{seal, seal_from};
pub use lists::log;
pub use plan::{Blocks, Planned, plan};
pub use side_files::side_files;
pub use source::{Part, Source, SourceFacts, is_device_name};

#[cfg(test)]
mod tests;
