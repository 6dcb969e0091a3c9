//! peapod: runs Kubernetes `Pod` manifests on one machine, with no daemon.

pub mod command;
pub mod container;
pub mod error;
mod files;
pub mod image;
pub mod manifest;
pub mod network;
pub mod pod;
pub mod settings;
pub mod volume;
