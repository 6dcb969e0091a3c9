//! Addresses of pods: under construction.
