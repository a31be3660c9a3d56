//! How the kernels cut their inputs into rows, and what a launch is told beside them.

use super::Operation;
#[cfg(any(feature = "cuda", test))]
use super::Then;
use super::operation::{CHANNELS, PART};

/// How the values of the first input are cut into rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows {
    pub(super) rows: usize,
    pub(super) width: usize,
    /// Tokens of one head, where there are heads.
    pub(super) tokens: usize,
    /// Size of the first dimension.
    pub(super) first: usize,
}

impl Operation {
    /// The rows of a first input of these sizes.
    pub(super) fn rows(self, dims: &[usize]) -> Rows {
        let (count, last) = (dims.iter().product::<usize>(), dims.last().copied().unwrap_or(1));
        let size = |at: usize| dims.get(at).copied().unwrap_or(1);
        let pixels = || size(2) * size(3);
        let (rows, width) = match self {
            // What knows no rows is cut so that a GPU has enough of them.
            Self::Widened
            | Self::Gelu
            | Self::GeluVjp
            | Self::Silu
            | Self::QuickGelu
            | Self::ExactGelu
            | Self::SiluTimes
            | Self::GeluTimes
                if count.is_multiple_of(1024) =>
            {
                (count / 1024, 1024)
            }
            Self::PartMoments => (size(0) * last.div_ceil(PART), last),
            Self::JoinedMoments { .. } => (size(0), size(1)),
            Self::GroupNorm { .. } => (size(0) * size(1), pixels()),
            Self::PixelSquares | Self::ChannelNorm { .. } => (size(0) * size(1).div_ceil(CHANNELS), pixels()),
            Self::Patches(window) => (size(0) * window.kernel * window.kernel, window.lines * window.columns),
            Self::Spread { width } => (last, width),
            _ => (count / last.max(1), last),
        };
        Rows {
            rows,
            width,
            tokens: dims.len().checked_sub(2).map_or(1, |at| dims[at]),
            first: dims.first().copied().unwrap_or(1),
        }
    }
}

/// What a kernel is told after inputs, output, rows and width.
#[cfg(any(feature = "cuda", test))]
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Argument {
    Whole(i64),
    Real(f32),
}

/// Values of a row that one warp has, where warps share the row: `CHUNK` and `SPAN` of the CUDA text.
#[cfg(feature = "cuda")]
const CHUNK: usize = 512;
#[cfg(feature = "cuda")]
const SPAN: usize = 2048;

#[cfg(any(feature = "cuda", test))]
impl Operation {
    /// What the kernel is told after inputs, output, rows and width, of the sizes of the first input.
    pub(super) fn arguments(self, dims: &[usize]) -> Vec<Argument> {
        use Argument::{Real, Whole};
        let whole = |value: usize| Whole(value as i64);
        let size = |at: usize| whole(dims.get(at).copied().unwrap_or(1));
        let silu = |then: Then| Whole(i64::from(then == Then::Silu));
        match self {
            Self::Swapped => vec![size(0)],
            Self::ModulatedNorm { epsilon }
            | Self::ModulatedNormVjp { epsilon }
            | Self::RmsNorm { epsilon }
            | Self::LayerNorm { epsilon } => vec![Real(epsilon)],
            Self::Turned { epsilon, text } | Self::TurnedVjp { epsilon, text } => {
                vec![Real(epsilon), size(2), whole(text)]
            }
            Self::MaskedSoftmax {
                scale,
                queries,
                bias_rows,
                ..
            } => vec![Real(scale), whole(queries.unwrap_or(0)), whole(bias_rows)],
            Self::Rotated => vec![size(1)],
            Self::JoinedMoments { epsilon, size } => vec![Real(epsilon), whole(size)],
            Self::GroupNorm { groups, then } => vec![size(1), whole(groups), silu(then)],
            Self::PixelSquares => vec![size(1)],
            Self::ChannelNorm { then } => vec![size(1), silu(then)],
            Self::Patches(window) => {
                let own = [
                    window.kernel,
                    window.stride,
                    window.before,
                    window.scale,
                    window.first_line,
                    window.columns,
                ];
                [size(1), size(2)].into_iter().chain(own.map(whole)).collect()
            }
            _ => vec![],
        }
    }

    /// The most values that a lane may take at once, of the sizes of the first input and where in memory the inputs start. `narrow` says whether values
    /// have two bytes: eight of those are 16 bytes.
    pub(super) fn pack(self, dims: &[usize], starts: &[usize], narrow: bool) -> usize {
        let width = self.rows(dims).width;
        let is_aligned = |pack: usize| starts.iter().all(|start| start.is_multiple_of(pack));
        let fits = |pack: usize| match self {
            Self::Rotated => width.is_multiple_of(2 * pack),
            Self::Patches(window) => {
                let broad = window.scale * dims.last().copied().unwrap_or(1);
                window.columns.is_multiple_of(pack) && broad.is_multiple_of(pack)
            }
            _ => width.is_multiple_of(pack),
        };
        let packs: &[usize] = match self {
            Self::JoinedMoments { .. } => &[1],
            Self::Turned { .. } | Self::TurnedVjp { .. } => &[4, 2],
            _ if narrow && self.is_of_layers() => &[8, 4, 1],
            _ => &[4, 1],
        };
        let fitting = packs.iter().copied().find(|pack| fits(*pack) && is_aligned(*pack));
        fitting.unwrap_or(packs[packs.len() - 1])
    }

    /// Whether it is one that layers around the transformer are made of.
    fn is_of_layers(self) -> bool {
        matches!(
            self,
            Self::RmsNorm { .. }
                | Self::LayerNorm { .. }
                | Self::Silu
                | Self::QuickGelu
                | Self::ExactGelu
                | Self::SiluTimes
                | Self::GeluTimes
                | Self::MaskedSoftmax { .. }
                | Self::Rotated
                | Self::PartMoments
                | Self::GroupNorm { .. }
                | Self::PixelSquares
                | Self::ChannelNorm { .. }
                | Self::Patches(_)
                | Self::Spread { .. }
        )
    }

    /// Values of a row that one warp has; none where each row has a warp of its own. Those that share have each value of a row with only others at its
    /// place to do with.
    #[cfg(feature = "cuda")]
    pub(super) fn chunk(self, lanes: usize, pack: usize) -> Option<usize> {
        match self {
            Self::Biased
            | Self::Added
            | Self::BiasedAdded
            | Self::Widened
            | Self::Dequantized { .. }
            | Self::DequantizedNf4 { .. }
            | Self::Swapped
            | Self::Gated
            | Self::Gelu
            | Self::GeluVjp
            | Self::GatedResidual
            | Self::Silu
            | Self::QuickGelu
            | Self::ExactGelu
            | Self::SiluTimes
            | Self::GeluTimes => Some(CHUNK),
            Self::GroupNorm { .. } | Self::Patches(_) | Self::Spread { .. } => Some(SPAN),
            Self::PixelSquares | Self::ChannelNorm { .. } => Some(lanes * pack),
            _ => None,
        }
    }
}
