//! One file a verb: what the methods of [`Runtime`](crate::Runtime) do.

pub mod checkpoint;
pub mod create;
pub mod delete;
pub mod exec;
pub mod kill;
pub mod pause;
pub mod query;
pub mod restore;
pub mod start;
pub mod update;
