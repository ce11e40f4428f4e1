//! A file system that misbehaves on plan: it answers late, in part, or with an error.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, SystemTime};

use aio::op::Direction;
use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tempfile::TempDir;

/// A read or write as the kernel asks for it; the kernel may have made several of one op.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) direction: Direction,
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// It may be for the page cache, where a short read means the end of the file. Also of a file opened with
    /// `O_DIRECT`: the kernel goes on there where a direct read came short.
    pub(crate) cached: bool,
    /// How many came before it.
    pub(crate) number: usize,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Serve,
    /// Answered after others that came later.
    Late,
    /// Only so many bytes are transferred.
    Short(usize),
    Fail(i32),
    /// Never answered.
    Hang,
}

type Plan = Box<dyn Fn(&Asked) -> Fate + Send + Sync>;

/// Mounted until it is dropped, after everything in it was closed.
pub(crate) struct TroubledFs {
    state: Arc<State>,
    session: Option<fuser::BackgroundSession>,
    folder: TempDir,
    /// Tells the watchdog that there is nothing to watch any more.
    _watched: mpsc::Sender<()>,
}

/// Less than a test may take before it counts as hung. A process that ends while it waits for its own file system never
/// does, so that is ended first.
const TOO_LONG: Duration = Duration::from_secs(100);

struct State {
    /// And folders, by their paths.
    files: Mutex<BTreeMap<String, File>>,
    plan: Mutex<Plan>,
    failures: Mutex<Vec<(Asked, i32)>>,
    asked: AtomicUsize,
    overtaken: AtomicUsize,
    sync_error: AtomicI32,
    statfs_error: AtomicI32,
    rename_error: AtomicI32,
    chmod_error: AtomicI32,
    /// And how many syncs of folders succeed before it.
    folder_sync_error: AtomicI32,
    folder_syncs: AtomicUsize,
    hung: Mutex<Vec<Box<dyn Send>>>,
    aborted: AtomicBool,
    how: How,
}

/// How the kernel does direct I/O of its files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// All I/O is direct, also of files that are not opened for it.
    pub(crate) bypass_cache: bool,
    /// All requests of one transfer are asked for at once. The kernel then makes EIO of a short write.
    pub(crate) at_once: bool,
}

struct File {
    inode: u64,
    kind: FileType,
    bytes: Vec<u8>,
}

impl TroubledFs {
    /// One that gives no trouble yet. `None`, with a line on standard error, where this process may not mount one.
    pub(crate) fn mount(how: How) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a mount point");
        let state = Arc::new(State {
            files: Mutex::default(),
            plan: Mutex::new(Box::new(|_| Fate::Serve)),
            failures: Mutex::default(),
            asked: AtomicUsize::new(0),
            overtaken: AtomicUsize::new(0),
            sync_error: AtomicI32::new(0),
            statfs_error: AtomicI32::new(0),
            rename_error: AtomicI32::new(0),
            chmod_error: AtomicI32::new(0),
            folder_sync_error: AtomicI32::new(0),
            folder_syncs: AtomicUsize::new(0),
            hung: Mutex::default(),
            aborted: AtomicBool::new(false),
            how,
        });
        let (late, answers) = mpsc::channel();
        let overtaken = state.clone();
        std::thread::spawn(move || answer_late(&answers, &overtaken.overtaken));
        match fuser::spawn_mount(Served { state: state.clone(), late }, folder.path(), &Config::default()) {
            Ok(session) => {
                let (_watched, watch) = mpsc::channel();
                let path = folder.path().to_owned();
                std::thread::spawn(move || {
                    if watch.recv_timeout(TOO_LONG) == Err(mpsc::RecvTimeoutError::Timeout) {
                        end(&path);
                    }
                });
                Some(Self { state, session: Some(session), folder, _watched })
            }
            Err(error) => {
                eprintln!("SKIPPED: no FUSE file system: {error}");
                None
            }
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// From now on.
    pub(crate) fn plan(&self, plan: impl Fn(&Asked) -> Fate + Send + Sync + 'static) {
        *self.state.plan.lock().unwrap() = Box::new(plan);
    }

    /// The next sync fails with this.
    pub(crate) fn fail_sync(&self, errno: i32) {
        self.state.sync_error.store(errno, Ordering::SeqCst);
    }

    /// Every `statfs` fails with this.
    pub(crate) fn refuse_statfs(&self, errno: i32) {
        self.state.statfs_error.store(errno, Ordering::SeqCst);
    }

    /// Every rename over what is there fails with this; none does with 0.
    #[allow(dead_code, reason = "for the tests of aio-store")]
    pub(crate) fn refuse_replacing(&self, errno: i32) {
        self.state.rename_error.store(errno, Ordering::SeqCst);
    }

    /// Every change of permissions fails with this; none does with 0.
    #[allow(dead_code, reason = "for the tests of aio-store")]
    pub(crate) fn refuse_chmod(&self, errno: i32) {
        self.state.chmod_error.store(errno, Ordering::SeqCst);
    }

    /// Every sync of a folder fails with this, but for the first so many; none does with 0.
    #[allow(dead_code, reason = "for the tests of aio-store")]
    pub(crate) fn refuse_folder_syncs(&self, errno: i32, after: usize) {
        self.state.folder_syncs.store(after, Ordering::SeqCst);
        self.state.folder_sync_error.store(errno, Ordering::SeqCst);
    }

    /// What a file holds, as it never passed through the kernel.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        self.state.files.lock().unwrap()[name].bytes.clone()
    }

    /// Takes the failures that the plan made so far.
    pub(crate) fn failures(&self) -> Vec<(Asked, i32)> {
        std::mem::take(&mut self.state.failures.lock().unwrap())
    }

    /// How often an answer was overtaken by one of a later request.
    pub(crate) fn overtaken(&self) -> usize {
        self.state.overtaken.load(Ordering::SeqCst)
    }

    /// Requests that were never answered.
    pub(crate) fn hung(&self) -> usize {
        self.state.hung.lock().unwrap().len()
    }

    /// Ends it while files are open and requests unanswered: as if its device had been pulled.
    pub(crate) fn abort(&self) {
        end(self.folder.path());
        self.state.aborted.store(true, Ordering::SeqCst);
    }
}

impl Drop for TroubledFs {
    fn drop(&mut self) {
        self.state.hung.lock().unwrap().clear();
        let Some(session) = self.session.take() else { return };
        let aborted = self.state.aborted.load(Ordering::SeqCst);
        let ended = if aborted { session.join() } else { session.umount_and_join() };
        if let Err(error) = ended.or_else(|error| if aborted { Ok(()) } else { Err(error) })
            && !std::thread::panicking()
        {
            panic!("the FUSE file system stays mounted: {error}");
        }
    }
}

/// Whatever waits for an answer gets an error.
fn end(mounted: &Path) {
    let done = Command::new("umount").args(["--force", "--lazy"]).arg(mounted).status();
    assert!(done.expect("umount runs").success());
}

/// Answers once nothing more has come for a moment, and then the last request first.
fn answer_late(answers: &mpsc::Receiver<Box<dyn FnOnce() + Send>>, overtaken: &AtomicUsize) {
    while let Ok(first) = answers.recv() {
        let mut held = vec![first];
        while let (true, Ok(next)) = (held.len() < 64, answers.recv_timeout(Duration::from_millis(3))) {
            held.push(next);
        }
        overtaken.fetch_add(held.len() - 1, Ordering::SeqCst);
        held.into_iter().rev().for_each(|answer| answer());
    }
}

/// What the kernel talks to.
struct Served {
    state: Arc<State>,
    late: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Served {
    /// Decides, and answers now or later: with how many bytes, or an error.
    fn answer<R: Send + 'static>(
        &self,
        asked: (Direction, u64, usize),
        reply: R,
        answer: impl FnOnce(&State, R, Result<usize, Errno>) + Send + 'static,
    ) {
        let (direction, offset, len) = asked;
        let cached = !self.state.how.bypass_cache;
        let number = self.state.asked.fetch_add(1, Ordering::SeqCst);
        let asked = Asked { direction, offset, len, cached, number };
        let fate = (self.state.plan.lock().unwrap())(&asked);
        match fate {
            Fate::Serve => answer(&self.state, reply, Ok(len)),
            Fate::Short(bytes) => answer(&self.state, reply, Ok(bytes.min(len))),
            Fate::Fail(errno) => {
                self.state.failures.lock().unwrap().push((asked, errno));
                answer(&self.state, reply, Err(Errno::from_i32(errno)));
            }
            Fate::Late => {
                let state = self.state.clone();
                let _ = self.late.send(Box::new(move || answer(&state, reply, Ok(len))));
            }
            Fate::Hang => self.state.hung.lock().unwrap().push(Box::new(reply)),
        }
    }

    fn open_flags(&self) -> FopenFlags {
        match self.state.how.bypass_cache {
            true => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
            false => FopenFlags::empty(),
        }
    }
}

impl State {
    fn with<T>(&self, inode: INodeNo, run: impl FnOnce(&mut File) -> T) -> Result<T, Errno> {
        let mut files = self.files.lock().unwrap();
        files.values_mut().find(|file| file.inode == inode.0).map(run).ok_or(Errno::ENOENT)
    }

    /// The path of a name in a folder.
    fn path(&self, folder: INodeNo, name: &OsStr) -> String {
        let files = self.files.lock().unwrap();
        let folder = files.iter().find(|(_, file)| file.inode == folder.0);
        folder.map_or(String::new(), |(path, _)| format!("{path}/")) + &name.to_string_lossy()
    }

    /// A new one, without content.
    fn make(&self, path: String, kind: FileType) -> FileAttr {
        let mut files = self.files.lock().unwrap();
        let inode = files.values().map(|file| file.inode).max().unwrap_or(INodeNo::ROOT.0) + 1;
        let mut file = File { inode, kind, bytes: Vec::new() };
        let attributes = file.attributes();
        files.insert(path, file);
        attributes
    }

    fn remove(&self, path: &str) -> Result<File, Errno> {
        self.files.lock().unwrap().remove(path).ok_or(Errno::ENOENT)
    }
}

/// The kernel may keep nothing it was told of a file.
const NEVER: Duration = Duration::ZERO;

fn attributes(inode: u64, kind: FileType, size: u64) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(inode),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl File {
    fn attributes(&mut self) -> FileAttr {
        attributes(self.inode, self.kind, self.bytes.len() as u64)
    }
}

impl Filesystem for Served {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Blocks of an op become several requests.
        let _ = config.set_max_write(8 << 10);
        if self.state.how.at_once {
            let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        }
        Ok(())
    }

    fn lookup(&self, _: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let path = self.state.path(folder, name);
        match self.state.files.lock().unwrap().get_mut(&path) {
            Some(file) => reply.entry(&NEVER, &file.attributes(), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if inode == INodeNo::ROOT {
            return reply.attr(&NEVER, &attributes(inode.0, FileType::Directory, 0));
        }
        match self.state.with(inode, File::attributes) {
            Ok(attributes) => reply.attr(&NEVER, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.state.chmod_error.load(Ordering::SeqCst) {
            errno if errno != 0 && mode.is_some() => return reply.error(Errno::from_i32(errno)),
            _ => {}
        }
        let changed = self.state.with(inode, |file| {
            size.into_iter().for_each(|size| file.bytes.resize(size as usize, 0));
            file.attributes()
        });
        match changed {
            Ok(attributes) => reply.attr(&NEVER, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(&self, _: &Request, folder: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        let made = self.state.make(self.state.path(folder, name), FileType::RegularFile);
        reply.created(&NEVER, &made, Generation(0), FileHandle(0), self.open_flags());
    }

    fn mknod(&self, _: &Request, folder: INodeNo, name: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        let made = self.state.make(self.state.path(folder, name), FileType::RegularFile);
        reply.entry(&NEVER, &made, Generation(0));
    }

    fn mkdir(&self, _: &Request, folder: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let made = self.state.make(self.state.path(folder, name), FileType::Directory);
        reply.entry(&NEVER, &made, Generation(0));
    }

    fn unlink(&self, _: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.state.remove(&self.state.path(folder, name)) {
            Ok(_) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn rmdir(&self, request: &Request, folder: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.unlink(request, folder, name, reply);
    }

    /// Of a file; what a folder holds would stay where it was.
    fn rename(
        &self,
        _: &Request,
        from: INodeNo,
        old: &OsStr,
        to: INodeNo,
        new: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (self.state.path(from, old), self.state.path(to, new));
        match self.state.rename_error.load(Ordering::SeqCst) {
            errno if errno != 0 && self.state.files.lock().unwrap().contains_key(&to) => {
                return reply.error(Errno::from_i32(errno));
            }
            _ => {}
        }
        match self.state.remove(&from) {
            Ok(file) => {
                self.state.files.lock().unwrap().insert(to, file);
                if flags.contains(RenameFlags::RENAME_WHITEOUT) {
                    self.state.make(from, FileType::CharDevice);
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// An upper layer must have attributes; nothing looks at their values here.
    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.ok();
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::NO_XATTR);
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::NO_XATTR);
    }

    fn readdir(&self, _: &Request, folder: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let prefix = self.state.path(folder, OsStr::new(""));
        let files = self.state.files.lock().unwrap();
        let inside = files.iter().filter_map(|(path, file)| Some((path.strip_prefix(&prefix)?, file)));
        let inside = inside.filter(|(name, _)| !name.contains('/')).map(|(name, file)| (name, file.inode, file.kind));
        let all = [".", ".."].map(|name| (name, folder.0, FileType::Directory)).into_iter().chain(inside);
        for (number, (name, inode, kind)) in (1..).zip(all).skip(offset as usize) {
            if reply.add(INodeNo(inode), number, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), self.open_flags());
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let asked = (Direction::Read, offset, size as usize);
        self.answer(asked, reply, move |state, reply, bytes| {
            let read = bytes.and_then(|bytes| {
                state.with(inode, |file| {
                    let from = file.bytes.len().min(offset as usize);
                    file.bytes[from..file.bytes.len().min(from + bytes)].to_vec()
                })
            });
            match read {
                Ok(bytes) => reply.data(&bytes),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        let asked = (Direction::Write, offset, data.len());
        self.answer(asked, reply, move |state, reply, bytes| {
            let written = bytes.and_then(|bytes| {
                state.with(inode, |file| {
                    let range = offset as usize..offset as usize + bytes;
                    let len = file.bytes.len().max(range.end);
                    file.bytes.resize(len, 0);
                    file.bytes[range].copy_from_slice(&data[..bytes]);
                    bytes as u32
                })
            });
            match written {
                Ok(bytes) => reply.written(bytes),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.state.statfs_error.load(Ordering::SeqCst) {
            0 => reply.statfs(0, 0, 0, 0, 0, 512, 255, 0),
            errno => reply.error(Errno::from_i32(errno)),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.state.sync_error.swap(0, Ordering::SeqCst) {
            0 => reply.ok(),
            errno => reply.error(Errno::from_i32(errno)),
        }
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let left =
            self.state.folder_syncs.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match self.state.folder_sync_error.load(Ordering::SeqCst) {
            errno if errno != 0 && left.is_err() => reply.error(Errno::from_i32(errno)),
            _ => reply.ok(),
        }
    }
}

/// The name of a file in it.
pub(crate) fn name_of(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).expect("a name")
}
