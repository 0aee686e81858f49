//! Routes with `grpc_web` and upstreams that cannot be called by gRPC.

use super::super::decode::{At, Context};
use super::super::raw::{Raw, RawAction, RawProtocol};
use std::collections::HashMap;

pub(super) fn check(raw: &Raw, cx: &Context<'_>) {
    let spoken =
        |protocol: &Option<At<RawProtocol>>| protocol.as_ref().map_or(RawProtocol::Http1, |p| p.value);
    let upstreams: HashMap<&str, RawProtocol> =
        raw.upstreams.iter().map(|u| (u.name.value.as_str(), spoken(&u.protocol))).collect();
    for route in &raw.routes {
        let own = route.policies.grpc_web.as_ref();
        let Some(flag) = own.or(raw.defaults.grpc_web.as_ref()).filter(|flag| flag.value) else { continue };
        let Some(At { value: RawAction::Upstream(choices), .. }) = &route.action else {
            if own.is_some() && route.action.is_some() {
                cx.fail(&flag.place, "`grpc_web` is about calls of an upstream, and this route has none");
            }
            continue;
        };
        for (At { place, value }, _) in choices {
            let url = value.contains("://");
            let protocol =
                if url { Some(RawProtocol::Http1) } else { upstreams.get(value.as_str()).copied() };
            if protocol != Some(RawProtocol::Http1) {
                continue; // or it is unknown, which is said elsewhere
            }
            let advice = if url { "name an upstream with" } else { "the upstream needs" };
            let less = if own.is_some() { "" } else { ", or this route `grpc_web: false`" };
            cx.fail(
                place,
                format!(
                    "with `grpc_web` {} is called by gRPC, which is spoken over HTTP/2; {advice} `protocol: h2`, h2c or auto{less}",
                    place.show(value)
                ),
            );
        }
    }
}
