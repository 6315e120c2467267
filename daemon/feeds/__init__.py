"""The exchange adapters: one module a venue, pure decoders and sequencers with thin sockets around them."""
