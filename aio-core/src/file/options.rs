//! How to open a file.

use nix::fcntl::OFlag;

use crate::config::DirectMode;

/// How to open a file. Nothing is set at first.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) create: bool,
    pub(crate) create_new: bool,
    pub(crate) direct: Option<DirectMode>,
    pub(super) private: bool,
    pub(super) one_op: bool,
    pub(super) one_read: bool,
}

impl OpenOptions {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// For reading.
    pub fn read(mut self, read: bool) -> Self {
        self.read = read;
        self
    }

    /// For writing. An existing file is neither cut nor replaced.
    pub fn write(mut self, write: bool) -> Self {
        self.write = write;
        self
    }

    /// Make the file if there is none, also where a symbolic link points to none. Implies `write`.
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Make the file; an existing one, or a symbolic link, is an error. Implies `write`.
    pub fn create_new(mut self, create_new: bool) -> Self {
        self.create_new = create_new;
        self
    }

    /// Whether to bypass the page cache; the default is the handle's.
    pub fn direct(mut self, direct: DirectMode) -> Self {
        self.direct = Some(direct);
        self
    }

    /// Only the owner may use the file that is made.
    pub(crate) fn private(mut self, private: bool) -> Self {
        self.private = private;
        self
    }

    /// The file will be open for one op, which may need no second descriptor.
    pub(crate) fn one_op(mut self, one_op: bool) -> Self {
        self.one_op = one_op;
        self
    }

    /// That op is a read: it goes through the page cache if the file is there when it is opened.
    pub(crate) fn one_read(mut self, one_read: bool) -> Self {
        self.one_read = one_read;
        self
    }

    pub(super) fn flags(&self) -> OFlag {
        let write = self.write || self.create || self.create_new;
        let mut flags = OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        flags |= match (self.read, write) {
            (true, true) => OFlag::O_RDWR,
            (false, true) => OFlag::O_WRONLY,
            _ => OFlag::O_RDONLY,
        };
        if self.create || self.create_new {
            flags |= OFlag::O_CREAT;
        }
        if self.create_new {
            flags |= OFlag::O_EXCL;
        }
        flags
    }
}
