//! peapod: runs Kubernetes `Pod` manifests on one machine, with no daemon.

pub mod container;
pub mod image;
pub mod manifest;
pub mod volume;
