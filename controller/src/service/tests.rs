//! The service driven by simulated agents over channels, with a clock of our own.

mod archives;
mod captures;
mod clones;
mod comparisons;
mod enrolment;
mod jobs;
mod partitions;
mod rig;
mod whole_disk;
