//! What a batch may have done, by the model.

use std::collections::BTreeMap;

use aio::Error;

use crate::case::{Batch, Way};
use crate::op::{Ended, Placed};
use crate::sequence::Run;
use crate::support::until_idle;

impl Run {
    pub(crate) fn check(
        &mut self,
        placed: &[Placed],
        mut results: BTreeMap<usize, Ended>,
        unclaimed: Vec<Error>,
        batch: &Batch,
    ) {
        let len = self.model.0.len();
        let grows = placed.iter().any(|op| op.op.write && op.ends_past(len));
        let mut unclaimed_reads = 0;
        // Reads first: they were of the file as it was, for all that writes beside them did.
        for (index, op) in placed.iter().enumerate().filter(|(_, op)| !op.op.write) {
            let ended = results.remove(&index).unwrap_or(Ended::Unknown);
            let eof = op.eof(len);
            let cancelled = matches!(op.op.way, Way::Cancelled | Way::CancelledAndDropped);
            let (got, buffers) = match ended {
                Ended::Ok(buffers) => {
                    assert!(eof.is_none() || grows, "op {index} is Ok, {eof:?} of {batch:?}");
                    (u64::MAX, buffers)
                }
                Ended::Eof(read, buffers) => {
                    assert!(
                        Some(read) == eof || grows && eof.is_some_and(|eof| read >= eof),
                        "op {index}: {read}, {eof:?}"
                    );
                    (read, buffers)
                }
                Ended::Cancelled => {
                    assert!(cancelled, "op {index}");
                    continue;
                }
                Ended::Unknown => {
                    unclaimed_reads += usize::from(eof.is_some() && op.op.way == Way::Dropped);
                    continue;
                }
            };
            let Some(buffers) = buffers else { continue };
            let mut left = got;
            for ((offset, memory), range) in buffers.iter().zip(&op.extents) {
                assert_eq!((*offset, memory.bytes().len()), (range.start as u64, range.len()));
                let part = memory.bytes().len().min(usize::try_from(left).unwrap_or(usize::MAX));
                left = left.saturating_sub(part as u64);
                let differs = self.model.differs(range.start, &memory.bytes()[..part]);
                assert_eq!(differs, None, "op {index} read a wrong byte");
                if part < memory.bytes().len() {
                    break;
                }
            }
        }
        // What failed without a ticket.
        let eofs = unclaimed.iter().filter(|error| matches!(error, Error::UnexpectedEof { .. })).count();
        let may_cancel = placed.iter().filter(|op| op.op.way == Way::CancelledAndDropped).count();
        let cancels = unclaimed.iter().filter(|error| matches!(error, Error::Cancelled { .. })).count();
        assert_eq!(eofs + cancels, unclaimed.len(), "{unclaimed:?}");
        assert!(eofs <= unclaimed_reads + may_cancel && cancels <= may_cancel, "{unclaimed:?}");
        assert!(eofs >= unclaimed_reads || grows, "{eofs} of {unclaimed_reads}");

        let found = std::fs::read(&self.path).unwrap();
        let mut unsure = Vec::new();
        for (index, op) in placed.iter().enumerate().filter(|(_, op)| op.op.write) {
            match (results.remove(&index), op.op.way) {
                (Some(Ended::Ok(_)), _) | (None, Way::Dropped) => op.apply(&mut self.model),
                (Some(Ended::Cancelled), Way::Cancelled) | (None, Way::CancelledAndDropped) => unsure.push(op),
                (other, way) => panic!("write {index} ({way:?}): {other:?}"),
            }
        }
        // A cancelled write leaves the length to the others. If it is not known how it ended, the file tells.
        for op in &unsure {
            if op.op.way == Way::CancelledAndDropped && found.len() == op.end() {
                self.model.at_least(op.end());
            }
        }
        for op in unsure {
            op.extents.iter().for_each(|range| self.model.forget(range.clone()));
        }
        self.model.settle(&found, &format!("after {batch:?}"));
        until_idle(&self.aio);
    }
}
