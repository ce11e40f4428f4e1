//! Ops on memory that is lent for a scope or a blocking call.

use std::collections::BTreeMap;
use std::ops::Range;

use aio::Error;

use crate::case::Way;
use crate::op::{Buffers, Ended, Placed, blocking};
use crate::sequence::Run;

impl Run {
    /// The ops on borrowed memory, while the others are in flight: the results of those that have one each, and the
    /// failures of the scope.
    pub(crate) fn borrowed(&self, placed: &[Placed]) -> (BTreeMap<usize, Ended>, Vec<Error>) {
        let mut results = BTreeMap::new();
        let mut memory: BTreeMap<usize, Buffers> = placed
            .iter()
            .enumerate()
            .filter(|(_, op)| op.op.way == Way::Scope)
            .map(|(index, op)| (index, op.buffers(&self.aio)))
            .collect();
        let scope = self.aio.scope(|scope| {
            for (index, buffers) in &mut memory {
                let op = &placed[*index];
                let file = op.file(&self.file);
                if op.op.write {
                    let extents = buffers.iter().map(|(offset, memory)| (*offset, memory.bytes())).collect();
                    scope.write_vectored(&file, extents);
                } else {
                    let extents = buffers.iter_mut().map(|(offset, memory)| (*offset, memory.bytes_mut())).collect();
                    scope.read_vectored(&file, extents);
                }
            }
            for (index, op) in placed.iter().enumerate().filter(|(_, op)| op.op.way == Way::Blocking) {
                let file = op.file(&self.file);
                let mut buffers = op.buffers(&self.aio);
                let mut all = Ended::Ok(None);
                for (position, (offset, memory)) in buffers.iter_mut().enumerate() {
                    let before: usize = op.extents[..position].iter().map(Range::len).sum();
                    let result = match op.op.write {
                        true => file.write_at(memory.bytes(), *offset),
                        false => file.read_at(memory.bytes_mut(), *offset),
                    };
                    match blocking(result) {
                        Ended::Eof(read, _) if matches!(all, Ended::Ok(_)) => {
                            all = Ended::Eof(before as u64 + read, None);
                        }
                        _ => {}
                    }
                }
                let all = match all {
                    Ended::Ok(_) => Ended::Ok(Some(buffers)),
                    Ended::Eof(read, _) => Ended::Eof(read, Some(buffers)),
                    other => other,
                };
                results.insert(index, all);
            }
        });
        let failures = match scope {
            Ok(()) => Vec::new(),
            Err(Error::Failures(failures)) => failures.errors,
            Err(error) => panic!("{error}"),
        };
        let grows = placed.iter().any(|op| op.op.write && op.ends_past(self.model.0.len()));
        let expected = memory.keys().filter(|index| !placed[**index].op.write);
        let expected = expected.filter_map(|index| placed[*index].eof(self.model.0.len())).count();
        assert!(failures.len() == expected || grows && failures.len() < expected, "{failures:?}, not {expected}");
        for (index, buffers) in memory {
            // Which of the scope's reads failed follows from the model where no write moves the end of the file.
            let ended = match placed[index].eof(self.model.0.len()).filter(|_| !placed[index].op.write) {
                Some(_) if grows => Ended::Unknown,
                Some(read) => Ended::Eof(read, Some(buffers)),
                None => Ended::Ok(Some(buffers)),
            };
            results.insert(index, ended);
        }
        (results, failures)
    }
}
