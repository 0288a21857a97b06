//! What may become of nodes and tasks: pure steps, without clock, database or network.
//!
//! `step(state, event) -> (state, effects)` says what follows; `service` keeps the new state and
//! carries the effects out. Planning a deployment is pure too, see [`plan`].

pub mod node;
pub mod plan;
pub mod task;
