# What the broker says, without what `log_type debug` and `subscribe` add, but with who tried what he may not. `start` has
# the broker's log go through it.
#
#   awk -v acl=FILE -f denials.awk     FILE: the broker's acl_file, by which it is judged who may what
#
# For Debian's mawk and busybox's awk: nothing here is gawk's alone. A name behind a function's other arguments is its own variable.

# Whether a topic is one of a pattern's, for this user.
function fits(pattern, topic, user,    i, levels, wanted, found) {
  levels = split(pattern, wanted, "/")
  if (split(topic, found, "/") != levels) return 0
  for (i = 1; i <= levels; i++)
    if (wanted[i] == "+" ? found[i] == "#" : found[i] != (wanted[i] == "%u" ? user : wanted[i])) return 0
  return 1
}

# Whether a client may `read` or `write` a topic.
function may(action, topic, id,    i, user) {
  user = id in users ? users[id] : id
  if (user in of_its_own || !patterns) return 1 # the hub and operators: whom the file names
  for (i = 1; i <= patterns; i++)
    if (actions[i] == action && fits(pattern[i], topic, user)) return 1
  return 0
}

# Says a line about a client: ten of one in a minute.
function say(line, id) {
  if (int($1 / 60) != minute) { minute = int($1 / 60); split("", said) }
  if (++said[id] > 10) return
  print line
  if (said[id] == 10) print $1, "Denied: more of " id " is not said in this minute"
  fflush()
}

BEGIN {
  while ((getline rule <acl) > 0) {
    split(rule, word, " ")
    if (word[1] == "pattern") { actions[++patterns] = word[2]; pattern[patterns] = word[3] }
    if (word[1] == "user") of_its_own[word[2]] = 1
  }
}

/^[0-9]+: (Received|Sending) / || /^[0-9]+: No will message specified/ { next }

/^[0-9]+: Will message specified/ { will = 1; next }

/^[0-9]+: \t/ { # the topic of a last will, or of what is subscribed to, which comes again below
  topic = substr($0, index($0, "\t") + 1)
  if (will && !may("write", topic, id)) say($1 " Denied WILL from " id " (\047" topic "\047)", id)
  will = 0
  next
}

/^[0-9]+: [^ ]+ [012] / { # log_type subscribe: granted whatever it is, and what may not be read does not arrive
  topic = $0
  sub(/^[0-9]+: [^ ]+ [012] /, "", topic)
  if (!may("read", topic, $2)) say($1 " Denied SUBSCRIBE from " $2 " (\047" topic "\047)", $2)
  next
}

/^[0-9]+: (Denied|Dropped too large|Rejected) PUBLISH from / {
  from = $0
  sub(/^[0-9]+: [^(]* from /, "", from)
  sub(/ .*/, "", from)
  sub(/[.,]$/, "", from)
  say($0, from)
  next
}

/^[0-9]+: New client connected from .* as / {
  id = user = $0
  sub(/^.* as /, "", id)
  sub(/ \(p.*/, "", id)
  if (sub(/^.*, u\047/, "", user)) { sub(/\047\)\.?$/, "", user); users[id] = user }
}

{ print; fflush() }
