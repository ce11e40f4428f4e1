//! glommio, a thread-per-core runtime on io_uring, if it was compiled in (feature `peer-glommio`).

#[cfg(not(feature = "peer-glommio"))]
use crate::compare::contender::Contender;

/// The name in tables.
pub(crate) const NAME: &str = "glommio";

/// Starts glommio.
#[cfg(not(feature = "peer-glommio"))]
pub(crate) fn contender(_depth: usize) -> Result<Box<dyn Contender>, String> {
    Err("not compiled in: feature peer-glommio".to_owned())
}

#[cfg(feature = "peer-glommio")]
pub(crate) use there::contender;

#[cfg(feature = "peer-glommio")]
mod there {
    use std::path::Path;

    use futures_util::{StreamExt, TryStreamExt, stream};
    use glommio::io::{DmaFile, OpenOptions};
    use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};

    use crate::compare::contender::{Contender, failed, timed};
    use crate::compare::plan::Start;
    use crate::compare::work::Work;
    use aio_cli::failure::Failure;
    use aio_cli::generate;
    use aio_cli::host::cpu::Elapsed;

    struct Glommio {
        executor: LocalExecutor,
        depth: usize,
    }

    /// Starts glommio.
    pub(crate) fn contender(depth: usize) -> Result<Box<dyn Contender>, String> {
        /// Memory that glommio registers: the blocks in flight at the largest size, and some to spare.
        const LARGEST: usize = 2 << 20;
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(depth * LARGEST);
        let executor = builder.make().map_err(|error| error.to_string())?;
        Ok(Box::new(Glommio { executor, depth }))
    }

    impl Contender for Glommio {
        fn note(&self) -> Option<&'static str> {
            Some("direct I/O always, also for what lies in the page cache")
        }

        fn run(&mut self, work: &Work) -> Result<Elapsed, Failure> {
            let mut pattern = vec![0; work.spec.block];
            generate::fill(&mut pattern, 1);
            timed(|| {
                self.executor.run(async {
                    if work.spec.file_per_block {
                        let blocks = stream::iter(work.order());
                        let moved = blocks.map(|&block| own_file(work, block, &pattern));
                        return moved.buffer_unordered(self.depth).try_collect::<()>().await;
                    }
                    let file = open(work, &work.files()[0]).await?;
                    let moved = stream::iter(work.order()).map(|&block| transfer(work, &file, block, &pattern));
                    moved.buffer_unordered(self.depth).try_collect::<()>().await?;
                    if work.spec.durable {
                        file.fdatasync().await.map_err(failed)?;
                    }
                    file.close().await.map_err(failed)
                })
            })
        }
    }

    async fn own_file(work: &Work, block: u64, pattern: &[u8]) -> Result<(), Failure> {
        let file = open(work, work.place(block).0).await?;
        transfer(work, &file, block, pattern).await?;
        file.close().await.map_err(failed)
    }

    async fn open(work: &Work, path: &Path) -> Result<DmaFile, Failure> {
        let mut options = OpenOptions::new();
        options.read(true).write(work.spec.writes).create_new(work.spec.start == Start::New);
        let file = options.dma_open(path).await.map_err(failed)?;
        if work.spec.start == Start::New {
            file.pre_allocate(work.file_len(), false).await.map_err(failed)?;
        }
        Ok(file)
    }

    async fn transfer(work: &Work, file: &DmaFile, block: u64, pattern: &[u8]) -> Result<(), Failure> {
        let offset = work.place(block).1;
        if !work.spec.writes {
            let read = file.read_at(offset, work.spec.block).await.map_err(failed)?;
            return work.check(block, &read);
        }
        // glommio writes from its own buffers only, so the data is copied there.
        let mut buffer = file.alloc_dma_buffer(work.spec.block);
        buffer.as_bytes_mut().copy_from_slice(pattern);
        work.stamp(block, buffer.as_bytes_mut())?;
        let moved = file.write_at(buffer, offset).await.map_err(failed)?;
        if moved == work.spec.block { Ok(()) } else { Err(failed(format!("it moved {moved} bytes of a block"))) }
    }
}
