//! Owns the forms in which a secret, a time and bytes go from one worker to the next, and the bounds of what is taken in.
//! Does not know what else goes with them, or the way they take.
//!
//! A value goes from a [`SecretBytes`] into the frame that is sent, and from the frame that was received into a [`SecretBytes`];
//! frames are erased by the allocator when they are freed.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::secret::{Field, Form, Secret, SecretBytes, Version};

/// The last second of the calendar that is carried, in the year 8000: what is shown of a time adds a hundred years at most, and
/// four digits are all that a year may have.
const LAST_SECOND: u64 = 190_000_000_000;

/// Something in the form in which it is carried.
#[derive(Debug)]
pub struct Carried<T>(pub T);

impl Serialize for Carried<SystemTime> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        (since.as_secs().min(LAST_SECOND), since.subsec_nanos()).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Carried<SystemTime> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (seconds, nanos) = <(u64, u32)>::deserialize(from)?;
        if seconds > LAST_SECOND || nanos >= 1_000_000_000 {
            return Err(D::Error::custom("no time of the calendar"));
        }
        Ok(Self(UNIX_EPOCH + Duration::new(seconds, nanos)))
    }
}

impl Serialize for Carried<&SecretBytes> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0.expose())
    }
}

impl Serialize for Carried<SecretBytes> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(self.0.expose())
    }
}

impl<'de> Deserialize<'de> for Carried<SecretBytes> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_bytes(Bytes).map(Self)
    }
}

/// Takes bytes from where they lie; a sequence of them, which would be collected first, is none.
struct Bytes;

impl Visitor<'_> for Bytes {
    type Value = SecretBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<SecretBytes, E> {
        Ok(SecretBytes::new(bytes.to_vec()))
    }
}

impl Serialize for Carried<&Field> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (&self.0.name, Carried(&self.0.value), self.0.form == Form::Json).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Carried<Field> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (name, value, is_json) = <(String, Carried<SecretBytes>, bool)>::deserialize(from)?;
        let form = if is_json { Form::Json } else { Form::Text };
        Ok(Self(Field { name, value: value.0, form }))
    }
}

/// The fields of a secret, one after the other.
struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<Field>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Field>, A::Error> {
        // What they say of their number is not believed before they are there.
        let mut fields = Vec::new();
        while let Some(Carried(field)) = seq.next_element::<Carried<Field>>()? {
            fields.push(field);
        }
        fields.shrink_to_fit();
        Ok(fields)
    }
}

impl<'de> Deserialize<'de> for Carried<Vec<Field>> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_seq(Fields).map(Self)
    }
}

impl Serialize for Carried<Arc<Secret>> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Secret { fields, version, created, expires } = &*self.0;
        let fields: Vec<Carried<&Field>> = fields.iter().map(Carried).collect();
        (fields, version, created.map(Carried), expires.map(Carried)).serialize(to)
    }
}

/// A secret as its parts.
type Parts = (Carried<Vec<Field>>, Version, Option<Carried<SystemTime>>, Option<Carried<SystemTime>>);

impl<'de> Deserialize<'de> for Carried<Arc<Secret>> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (fields, version, created, expires) = Parts::deserialize(from)?;
        let (created, expires) = (created.map(|at| at.0), expires.map(|at| at.0));
        Ok(Self(Arc::new(Secret { fields: fields.0, version, created, expires })))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn carry<A, B>(what: &A) -> postcard::Result<B>
    where
        A: Serialize,
        B: for<'de> Deserialize<'de>,
    {
        postcard::from_bytes(&postcard::to_stdvec(what).unwrap())
    }

    proptest! {
        #[test]
        fn a_secret_comes_out_as_it_went_in(
            fields in prop::collection::vec((".*", prop::collection::vec(any::<u8>(), 0..50), any::<bool>()), 0..5),
            version in ".*",
            created in prop::option::of(0..4_000_000_000_u64),
            expires in prop::option::of(0..4_000_000_000_u64),
        ) {
            let fields = fields.into_iter().map(|(name, value, json)| Field {
                name,
                value: SecretBytes::new(value),
                form: if json { Form::Json } else { Form::Text },
            });
            let at = |seconds: Option<u64>| seconds.map(|at| UNIX_EPOCH + Duration::new(at, 17));
            let (created, expires) = (at(created), at(expires));
            let secret = Secret { fields: fields.collect(), version: Version::new(version), created, expires };
            let out: Carried<Arc<Secret>> = carry(&Carried(Arc::new(secret))).unwrap();
            let again: Carried<Arc<Secret>> = carry(&out).unwrap();
            prop_assert!(out.0.is_same_as(&again.0) && out.0.created == created && out.0.expires == expires);
        }
    }

    #[test]
    fn a_time_before_or_beyond_the_calendar_is_bounded_where_it_leaves_and_refused_where_it_arrives() {
        let early: Carried<SystemTime> = carry(&Carried(UNIX_EPOCH - Duration::from_secs(5))).unwrap();
        assert_eq!(early.0, UNIX_EPOCH);
        let late: Carried<SystemTime> =
            carry(&Carried(UNIX_EPOCH + Duration::from_secs(LAST_SECOND + 9))).unwrap();
        assert_eq!(late.0, UNIX_EPOCH + Duration::from_secs(LAST_SECOND));
        assert!(carry::<_, Carried<SystemTime>>(&(LAST_SECOND + 1, 0_u32)).is_err());
        assert!(carry::<_, Carried<SystemTime>>(&(1_u64, 1_000_000_000_u32)).is_err());
    }

    #[test]
    fn many_fields_that_are_not_there_take_no_memory() {
        assert!(postcard::from_bytes::<Carried<Arc<Secret>>>(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }
}
