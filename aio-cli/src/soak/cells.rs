//! A file cut into cells of random length, and the expected content of each.

use crate::generate::SplitMix64;
use crate::pattern;

/// The largest cell.
pub(crate) const LARGEST: u64 = 1 << 20;

/// A stretch of a file that is written and read as a whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) offset: u64,
    pub(crate) len: usize,
    /// The number of its last write; `None` if its content is unknown.
    pub(crate) generation: Option<u64>,
    /// Whether an op uses it.
    busy: bool,
}

/// The cells of one file, one after the other.
#[derive(Debug)]
pub(crate) struct Cells {
    /// The file's number in labels.
    pub(crate) label: u64,
    cells: Vec<Cell>,
    bytes: u64,
}

impl Cells {
    /// Cells of at most `bytes` in all; their content is unknown.
    pub(crate) fn new(label: u64, bytes: u64, random: &mut SplitMix64) -> Self {
        let mut cells = Self { label, cells: Vec::new(), bytes };
        cells.cut(random);
        cells
    }

    /// Cuts the file anew; its content is then unknown.
    pub(crate) fn cut(&mut self, random: &mut SplitMix64) {
        self.cells.clear();
        let mut offset = 0;
        loop {
            let len = length(random);
            if offset + len > self.bytes {
                break;
            }
            self.cells.push(Cell { offset, len: len as usize, generation: None, busy: false });
            offset += len;
        }
    }

    /// Claims a cell for an op: any for a write, one of known content for a read. `None` if there is none now.
    pub(crate) fn claim(&mut self, write: bool, random: &mut SplitMix64) -> Option<usize> {
        let start = random.below(self.cells.len() as u64) as usize;
        let candidates = (start..self.cells.len()).chain(0..start);
        let fits = |index: &usize| {
            let cell = &self.cells[*index];
            !cell.busy && (write || cell.generation.is_some())
        };
        let index = candidates.into_iter().find(fits)?;
        self.cells[index].busy = true;
        Some(index)
    }

    /// Claims all idle cells of known content.
    pub(crate) fn claim_all(&mut self) -> Vec<usize> {
        let known = self.cells.iter_mut().enumerate().filter(|(_, cell)| !cell.busy && cell.generation.is_some());
        known
            .map(|(index, cell)| {
                cell.busy = true;
                index
            })
            .collect()
    }

    pub(crate) fn cell(&self, index: usize) -> Cell {
        self.cells[index]
    }

    /// Frees a cell after its op, and notes its content.
    pub(crate) fn release(&mut self, index: usize, generation: Option<u64>) {
        self.cells[index].busy = false;
        self.cells[index].generation = generation;
    }
}

/// A random length, from the smallest that can carry a label to the largest, as many small as large; some are whole
/// pages.
pub(crate) fn length(random: &mut SplitMix64) -> u64 {
    let smallest = pattern::SMALLEST as u64;
    let most = 1u64 << (6 + random.below(15));
    let len = (smallest + random.below(most)).min(LARGEST);
    if random.below(3) == 0 { len.next_multiple_of(4096) } else { len }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cover_the_file_without_overlap() {
        let mut random = SplitMix64::new(1);
        let cells = Cells::new(1, 40 << 20, &mut random);
        let mut end = 0;
        for cell in &cells.cells {
            assert_eq!(cell.offset, end);
            assert!(cell.len >= pattern::SMALLEST && cell.len as u64 <= LARGEST);
            end += cell.len as u64;
        }
        assert!(end <= 40 << 20 && end > 38 << 20);
        let small = cells.cells.iter().filter(|cell| cell.len < 4096).count();
        let whole = cells.cells.iter().filter(|cell| cell.len % 4096 == 0).count();
        assert!(small > 20 && whole > 20, "{small} small, {whole} whole pages");
    }

    #[test]
    fn a_cell_is_in_one_op_and_read_only_when_known() {
        let mut random = SplitMix64::new(1);
        let mut cells = Cells::new(1, 1 << 20, &mut random);
        assert_eq!(cells.claim(false, &mut random), None);
        let claimed: std::collections::BTreeSet<_> = std::iter::from_fn(|| cells.claim(true, &mut random)).collect();
        assert_eq!(claimed.len(), cells.cells.len());
        cells.release(0, Some(7));
        assert_eq!(cells.claim(false, &mut random), Some(0));
        cells.release(0, None);
        assert_eq!(cells.claim(false, &mut random), None);
        assert_eq!(cells.claim_all(), Vec::<usize>::new());
    }
}
