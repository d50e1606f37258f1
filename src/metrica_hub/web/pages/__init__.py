"""The dashboard: pages for people, whole without JavaScript, kept live where there is some.

frame       what every page has: head, navigation, theme, badge, state of the connection
fleet       all devices: cards, tiles, a table
device      one device: its releases, vitals, events
happenings  events of all devices, with filters
signing_in  where a browser shows its token once
parts       the stream that keeps parts of a page as they are now
timeline    events -> one entry a release
plots       vitals -> lines
"""
