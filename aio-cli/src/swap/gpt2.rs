//! The tensors of GPT-2 small (124M), by their real names and shapes.
//!
//! The names are those of the published checkpoint; `c_attn`, `c_proj` and `c_fc` are `Conv1D`, whose weights are
//! `[inputs, outputs]`. The output head shares `wte`, so it is not a tensor of its own.

const VOCABULARY: u64 = 50_257;
const POSITIONS: u64 = 1024;
const WIDTH: u64 = 768;
const LAYERS: u64 = 12;

/// Names and element counts of every parameter and of its two Adam moments, parameter by parameter.
pub(crate) fn training_state() -> impl Iterator<Item = (String, u64)> {
    parameters().into_iter().flat_map(|(name, shape)| {
        let elements: u64 = shape.iter().product();
        ["", ".exp_avg", ".exp_avg_sq"].map(|moment| (format!("{name}{moment}"), elements))
    })
}

/// Names and shapes, in the order of the checkpoint.
fn parameters() -> Vec<(String, Vec<u64>)> {
    let embeddings = [("wte.weight", vec![VOCABULARY, WIDTH]), ("wpe.weight", vec![POSITIONS, WIDTH])];
    let layers =
        (0..LAYERS).flat_map(|layer| layer_parameters().map(|(name, shape)| (format!("h.{layer}.{name}"), shape)));
    let last = [("ln_f.weight", vec![WIDTH]), ("ln_f.bias", vec![WIDTH])];
    let named = |(name, shape): (&str, Vec<u64>)| (name.to_owned(), shape);
    embeddings.into_iter().map(named).chain(layers).chain(last.into_iter().map(named)).collect()
}

fn layer_parameters() -> [(&'static str, Vec<u64>); 12] {
    [
        ("ln_1.weight", vec![WIDTH]),
        ("ln_1.bias", vec![WIDTH]),
        ("attn.c_attn.weight", vec![WIDTH, 3 * WIDTH]),
        ("attn.c_attn.bias", vec![3 * WIDTH]),
        ("attn.c_proj.weight", vec![WIDTH, WIDTH]),
        ("attn.c_proj.bias", vec![WIDTH]),
        ("ln_2.weight", vec![WIDTH]),
        ("ln_2.bias", vec![WIDTH]),
        ("mlp.c_fc.weight", vec![WIDTH, 4 * WIDTH]),
        ("mlp.c_fc.bias", vec![4 * WIDTH]),
        ("mlp.c_proj.weight", vec![4 * WIDTH, WIDTH]),
        ("mlp.c_proj.bias", vec![WIDTH]),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn it_has_the_published_number_of_tensors_and_parameters() {
        let parameters = parameters();
        assert_eq!(parameters.len(), 148);
        assert_eq!(parameters.iter().map(|(_, shape)| shape.iter().product::<u64>()).sum::<u64>(), 124_439_808);
    }

    #[test]
    fn every_parameter_has_two_moments_and_every_tensor_a_name_of_its_own() {
        let state: Vec<_> = training_state().collect();
        assert_eq!(state.len(), 3 * 148);
        assert_eq!(state.iter().map(|(_, elements)| elements).sum::<u64>(), 3 * 124_439_808);
        assert_eq!(state.iter().map(|(name, _)| name).collect::<HashSet<_>>().len(), 3 * 148);
        assert!(state.contains(&("h.11.attn.c_attn.weight.exp_avg_sq".to_owned(), 768 * 2304)));
    }
}
