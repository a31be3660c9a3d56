//! PNG files whose bytes depend on the pixels alone.

use image::{
    ExtendedColorType, ImageEncoder, ImageResult, RgbImage,
    codecs::png::{CompressionType, FilterType, PngEncoder},
};

/// Encodes an image losslessly, without time stamps or other metadata: equal pixels give equal bytes.
///
/// # Errors
/// An image without pixels.
pub fn encode_png(image: &RgbImage) -> ImageResult<Vec<u8>> {
    let mut bytes = Vec::new();
    // Fixed rather than the library's default, so that a blob's name survives a change of that default.
    let encoder = PngEncoder::new_with_quality(&mut bytes, CompressionType::Fast, FilterType::Adaptive);
    encoder.write_image(image.as_raw(), image.width(), image.height(), ExtendedColorType::Rgb8)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_survive_and_bytes_repeat() {
        let image = RgbImage::from_fn(7, 5, |x, y| image::Rgb([x as u8 * 30, y as u8 * 50, 200]));
        let bytes = encode_png(&image).unwrap();
        assert_eq!(image::load_from_memory(&bytes).unwrap().to_rgb8(), image);
        assert_eq!(encode_png(&image).unwrap(), bytes);
    }
}
