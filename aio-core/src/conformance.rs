//! The conformance suite: what every backend's tests call.
