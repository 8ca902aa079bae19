//! The port over a real socket.
