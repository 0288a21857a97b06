//! The controller: it netboots nodes, keeps the inventory and the images, runs the jobs and orders
//! the reboots.
//!
//! ```text
//! cli ──unix socket──> api ──> service ──> jobs (pure), store (SQL)
//!                                 ^
//!            boot, transfer ──────┘        app puts all of it together
//! ```
//!
//! Only `store` knows SQL, only `api` and `boot` know HTTP servers, only `transfer` knows QUIC.

pub mod api;
pub mod app;
pub mod backup;
pub mod boot;
mod causes;
pub mod cli;
pub mod config;
pub mod images;
pub mod jobs;
pub mod pki;
pub mod post_install;
pub mod service;
pub mod store;
pub mod transfer;
