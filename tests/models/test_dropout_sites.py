"""Every dropout of an encoder has a unique number."""

from flaxdistill.models.dropout_sites import EMBEDDINGS, LayerDropout, head_site, layer_site


def test_numbers_are_unique_and_stable():
    """Stored runs resume with these numbers, so they must not change."""
    layers = 12
    sites = [layer_site(layer, dropout) for layer in range(layers) for dropout in LayerDropout]
    assert [EMBEDDINGS, *sites, head_site(layers)] == list(range(3 * layers + 2))
    assert layer_site(2, LayerDropout.ATTENTION_PROBABILITIES) == 7
    assert layer_site(2, LayerDropout.ATTENTION_OUTPUT) == 8
    assert layer_site(2, LayerDropout.FEED_FORWARD_OUTPUT) == 9
