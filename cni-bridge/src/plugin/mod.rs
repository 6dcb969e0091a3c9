//! The verbs: under construction.
