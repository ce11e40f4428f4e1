//! rio, if it was compiled in (feature `peer-rio`).
//!
//! It starts as many reads or writes as the queue is deep, waits for all, and starts the next: completions borrow their
//! memory, so one block cannot be reused before the others end.

#[cfg(not(feature = "peer-rio"))]
use crate::compare::contender::Contender;

/// The name in tables.
pub(crate) const NAME: &str = "rio";

/// Starts rio.
#[cfg(not(feature = "peer-rio"))]
pub(crate) fn contender(_depth: usize) -> Result<Box<dyn Contender>, String> {
    Err("not compiled in: feature peer-rio".to_owned())
}

#[cfg(feature = "peer-rio")]
pub(crate) use there::contender;

#[cfg(feature = "peer-rio")]
mod there {
    use std::fs::{File, OpenOptions};
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use aio::buf::Arena;

    use crate::compare::contender::{Contender, failed, timed};
    use crate::compare::plan::Start;
    use crate::compare::work::Work;
    use aio_cli::failure::Failure;
    use aio_cli::generate;
    use aio_cli::host::cpu::Elapsed;

    struct Rio {
        ring: rio::Rio,
        arena: Arena,
        depth: usize,
    }

    /// Starts rio.
    pub(crate) fn contender(depth: usize) -> Result<Box<dyn Contender>, String> {
        let ring = rio::new().map_err(|error| error.to_string())?;
        Ok(Box::new(Rio { ring, arena: Arena::new(Arena::default_limit()), depth }))
    }

    impl Contender for Rio {
        fn note(&self) -> Option<&'static str> {
            Some(
                "unsound (RUSTSEC-2020-0021): memory of a completion that is forgotten may be freed under the kernel",
            )
        }

        fn run(&mut self, work: &Work) -> Result<Elapsed, Failure> {
            // Its direct I/O needs aligned memory; a Vec would do only for the page cache.
            let mut memory = self.arena.alloc(self.depth * work.spec.block)?;
            generate::fill(&mut memory, 1);
            timed(|| {
                let one = if work.spec.file_per_block { None } else { Some(open(work, &work.files()[0])?) };
                for blocks in work.order().chunks(self.depth) {
                    self.wave(work, one.as_ref(), blocks, &mut memory)?;
                }
                match one {
                    Some(file) if work.spec.durable => file.sync_all().map_err(failed),
                    _ => Ok(()),
                }
            })
        }
    }

    impl Rio {
        fn wave(&self, work: &Work, one: Option<&File>, blocks: &[u64], memory: &mut [u8]) -> Result<(), Failure> {
            let own = match one {
                Some(_) => Vec::new(),
                None => blocks.iter().map(|&block| open(work, work.place(block).0)).collect::<Result<_, _>>()?,
            };
            let files = own.iter().chain(one.into_iter().cycle());
            let mut parts: Vec<&mut [u8]> = memory.chunks_mut(work.spec.block).collect();
            if work.spec.writes {
                for (&block, part) in blocks.iter().zip(&mut parts) {
                    work.stamp(block, part)?;
                }
            }
            let begun: Vec<_> = blocks
                .iter()
                .zip(&parts)
                .zip(files)
                .map(|((&block, part), file)| {
                    let offset = work.place(block).1;
                    if work.spec.writes {
                        self.ring.write_at(file, part, offset)
                    } else {
                        self.ring.read_at(file, part, offset)
                    }
                })
                .collect();
            for moved in begun {
                let moved = moved.wait().map_err(failed)?;
                if moved != work.spec.block {
                    return Err(failed(format!("it moved {moved} bytes of a block of {}", work.spec.block)));
                }
            }
            if work.spec.writes {
                return Ok(());
            }
            blocks.iter().zip(&parts).try_for_each(|(&block, part)| work.check(block, part))
        }
    }

    fn open(work: &Work, path: &Path) -> Result<File, Failure> {
        let mut options = OpenOptions::new();
        options.read(true).write(work.spec.writes).create_new(work.spec.start == Start::New);
        if work.spec.start != Start::Cached {
            options.custom_flags(nix::libc::O_DIRECT);
        }
        options.open(path).map_err(failed)
    }
}
