// Before anything is drawn: the colours that were chosen in this browser, if any were.
document.documentElement.dataset.theme = localStorage.getItem("mediaserver.theme") ?? "";
