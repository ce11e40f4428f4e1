//! Configurations that cannot work are refused with the name of the setting.

use aio::Backend;

#[test]
fn configurations_that_cannot_work() {
    let refused = |builder: aio::Builder| builder.build().unwrap_err().to_string();
    let text = refused(aio::builder().queue_depth(0));
    assert!(text.contains("queue_depth = 0"), "{text}");
    for builder in [
        aio::builder().queue_depth(usize::MAX),
        aio::builder().block_size(0),
        aio::builder().block_size(4097),
        aio::builder().threads(0),
        aio::builder().threads(1 << 30),
    ] {
        let text = refused(builder);
        assert!(text.contains("is not valid"), "{text}");
    }
    let text = "fastest".parse::<Backend>().unwrap_err().to_string();
    assert_eq!(text, "backend = \"fastest\" is not valid: it is one of auto, uring, libaio, pthread");
}
