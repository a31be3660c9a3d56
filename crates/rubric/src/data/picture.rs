//! Pictures, from wherever a record says.

use std::fs::File;
use std::io::{Cursor, Read as _};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gavel_core::ids::Digest;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Rgb, RgbImage, Rgba};

use super::{PictureError, ReadOptions, RecordFault, Transparency};

/// A picture that decodes, held as it is encoded: a set of photographs fits into memory that way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// PNG, JPEG or WebP that every decoder shows alike: a picture that its file turns (EXIF), or through which one sees, is made anew as
    /// PNG, turned and without transparency.
    pub encoded: Vec<u8>,
    /// Fingerprint of `encoded`.
    pub digest: Digest,
}

impl Picture {
    /// The pixels, 8 bits a channel.
    pub fn image(&self) -> RgbImage {
        #[expect(
            clippy::expect_used,
            reason = "the same bytes were decoded when the picture was made"
        )]
        let image = image::load_from_memory(&self.encoded).expect("a picture that decoded once decodes again");
        image.to_rgb8()
    }

    /// Reads a picture's file.
    ///
    /// # Errors
    /// [`PictureError`].
    pub fn open(file: &Path, options: &ReadOptions<'_>) -> Result<Self, PictureError> {
        let read = read_file(file, options).and_then(|bytes| Self::checked(bytes, options));
        read.map_err(|fault| PictureError {
            file: file.to_owned(),
            fault: Box::new(fault),
        })
    }

    /// Reads a picture from a path, an http(s) address or a data URL.
    pub(crate) fn read(source: &str, folder: &Path, options: &ReadOptions<'_>) -> Result<Self, RecordFault> {
        Self::checked(bytes(source, folder, options)?, options)
    }

    /// Decodes the bytes of a picture, whatever their file is called: turned as its EXIF block says, without transparency. Bytes and pixels are counted before anything is decoded.
    ///
    /// # Errors
    /// [`RecordFault`].
    pub fn decode(bytes: &[u8], options: &ReadOptions<'_>) -> Result<RgbImage, RecordFault> {
        Ok(Decoded::of(bytes, options)?.image)
    }

    /// Takes the bytes of a picture's file.
    ///
    /// # Errors
    /// [`RecordFault`].
    pub fn checked(bytes: Vec<u8>, options: &ReadOptions<'_>) -> Result<Self, RecordFault> {
        let Decoded { image, is_plain } = Decoded::of(&bytes, options)?;
        let encoded = if is_plain {
            bytes
        } else {
            let mut png = Cursor::new(Vec::new());
            image
                .write_to(&mut png, ImageFormat::Png)
                .map_err(|source| RecordFault::Picture { source })?;
            png.into_inner()
        };
        Ok(Self {
            digest: Digest::of(&encoded),
            encoded,
        })
    }
}

/// A picture as it is meant to be seen.
struct Decoded {
    image: RgbImage,
    /// Whether the bytes say the same to a decoder that knows neither EXIF nor white.
    is_plain: bool,
}

impl Decoded {
    fn of(bytes: &[u8], options: &ReadOptions<'_>) -> Result<Self, RecordFault> {
        if bytes.len() as u64 > options.picture_bytes_max {
            return Err(RecordFault::Bytes {
                bytes_max: options.picture_bytes_max,
            });
        }
        if bytes.is_empty() {
            return Err(RecordFault::NoBytes);
        }
        let fault = |source| RecordFault::Picture { source };
        let io_fault = |source| RecordFault::Picture {
            source: image::ImageError::IoError(source),
        };
        let reader = ImageReader::new(Cursor::new(bytes))
            .with_guessed_format()
            .map_err(io_fault)?;
        let moves = match reader.format() {
            Some(ImageFormat::Png) => PngDecoder::new(Cursor::new(bytes)).and_then(|png| png.is_apng()),
            Some(ImageFormat::WebP) => WebPDecoder::new(Cursor::new(bytes)).map(|webp| webp.has_animation()),
            _ => Ok(false),
        };
        if moves.map_err(fault)? {
            return Err(RecordFault::Animation);
        }
        let mut decoder = reader.into_decoder().map_err(fault)?;
        let (width, height) = decoder.dimensions();
        let pixels_max = options.picture_pixels_max;
        if u64::from(width) * u64::from(height) > pixels_max {
            return Err(RecordFault::Pixels {
                width,
                height,
                pixels_max,
            });
        }
        // A picture whose EXIF block is damaged still has its pixels.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut image = DynamicImage::from_decoder(decoder).map_err(fault)?;
        image.apply_orientation(orientation);
        let is_opaque = is_opaque(&image);
        Ok(Self {
            is_plain: orientation == Orientation::NoTransforms && is_opaque,
            image: match options.transparency {
                Transparency::OverWhite if !is_opaque => over_white(&image),
                Transparency::OverWhite | Transparency::Dropped => image.into_rgb8(),
            },
        })
    }
}

const OPAQUE: u8 = u8::MAX;

fn is_opaque(image: &DynamicImage) -> bool {
    !image.color().has_alpha() || image.to_rgba8().pixels().all(|Rgba([.., alpha])| *alpha == OPAQUE)
}

fn over_white(image: &DynamicImage) -> RgbImage {
    let image = image.to_rgba8();
    let over = |colour: u8, alpha: u8| {
        let (white, whole) = (u32::from(u8::MAX), u32::from(OPAQUE));
        let (colour, alpha) = (u32::from(colour), u32::from(alpha));
        ((colour * alpha + white * (whole - alpha) + whole / 2) / whole) as u8
    };
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let Rgba([red, green, blue, alpha]) = *image.get_pixel(x, y);
        Rgb([over(red, alpha), over(green, alpha), over(blue, alpha)])
    })
}

fn bytes(source: &str, folder: &Path, options: &ReadOptions<'_>) -> Result<Vec<u8>, RecordFault> {
    let scheme = |name: &str| {
        source
            .get(..name.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(name))
    };
    if scheme("data:") {
        return data_url(source);
    }
    if scheme("http://") || scheme("https://") {
        return (options.fetch)(source, options.picture_bytes_max).map_err(|error| RecordFault::Fetch {
            url: source.to_owned(),
            source: error,
        });
    }
    read_file(&folder.join(source), options)
}

fn read_file(file: &Path, options: &ReadOptions<'_>) -> Result<Vec<u8>, RecordFault> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells that there are too many, without reading all of them.
    File::open(file)
        .and_then(|open| {
            open.take(options.picture_bytes_max.saturating_add(1))
                .read_to_end(&mut bytes)
        })
        .map_err(|source| RecordFault::File {
            file: file.to_owned(),
            source,
        })?;
    Ok(bytes)
}

fn data_url(url: &str) -> Result<Vec<u8>, RecordFault> {
    let (head, body) = url.split_once(',').ok_or(RecordFault::DataUrl)?;
    if !head.to_ascii_lowercase().ends_with(";base64") {
        return Err(RecordFault::DataUrl);
    }
    // Long URLs are sometimes wrapped.
    let body: String = body.split_ascii_whitespace().collect();
    STANDARD.decode(body).map_err(|_| RecordFault::DataUrl)
}
