//! Values of D-Bus's type system (D-Bus Specification, "Type System").

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Datum {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Text(String),
    Path(String),
    Signature(String),
    /// With the signature of its elements, as there may be none.
    Array(&'static str, Vec<Datum>),
    Struct(Vec<Datum>),
    Variant(Box<Datum>),
}

impl Datum {
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    pub fn variant(self) -> Self {
        Self::Variant(Box::new(self))
    }

    /// The words of a string, an object path or a variant of one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Path(text) => Some(text),
            Self::Variant(inner) => inner.as_text(),
            _ => None,
        }
    }

    /// Its type's signature.
    pub fn signature(&self) -> String {
        let basic = match self {
            Self::Byte(_) => "y",
            Self::Bool(_) => "b",
            Self::I16(_) => "n",
            Self::U16(_) => "q",
            Self::I32(_) => "i",
            Self::U32(_) => "u",
            Self::I64(_) => "x",
            Self::U64(_) => "t",
            Self::Double(_) => "d",
            Self::Text(_) => "s",
            Self::Path(_) => "o",
            Self::Signature(_) => "g",
            Self::Variant(_) => "v",
            Self::Array(element, _) => return format!("a{element}"),
            Self::Struct(fields) => return format!("({})", signature(fields)),
        };
        basic.to_owned()
    }
}

/// The signature of several in a row.
pub fn signature(all: &[Datum]) -> String {
    all.iter().map(Datum::signature).collect()
}
