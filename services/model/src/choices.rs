//! Closed sets of values. JumpServer's API shows such a field as `{"value", "label"}` and takes either form back; the
//! stored form is the value.

/// Declares an enum whose serde form, `as_str`, `FromStr` and list of (value, label) come from one table.
#[macro_export]
macro_rules! choices {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal, $label:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $value)] $variant,)+ }

        impl $name {
            /// (value, English label) of every variant, in order.
            pub const CHOICES: &'static [(&'static str, &'static str)] = &[$(($value, $label),)+];
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $value,)+ }
            }

            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::choices::UnknownChoice;
            fn from_str(s: &str) -> Result<Self, $crate::choices::UnknownChoice> {
                match s { $($value => Ok(Self::$variant),)+ _ => Err($crate::choices::UnknownChoice { value: s.to_owned() }) }
            }
        }
    };
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{value}\" is not one of the choices")]
pub struct UnknownChoice {
    pub value: String,
}
