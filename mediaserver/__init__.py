"""The composition root: joins SIP, RTP, engines and HTTP into one server, and carries the command line."""
